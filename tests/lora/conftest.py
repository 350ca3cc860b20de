"""Import the shared fixtures for adapted models."""

from tests.adapted import attach, ids, one_linear, snapshot, three_adapters, two_adapters, unit_llama

__all__ = ["attach", "ids", "one_linear", "snapshot", "three_adapters", "two_adapters", "unit_llama"]
