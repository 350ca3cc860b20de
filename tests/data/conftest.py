"""Import the fixtures of `surroundings.py` for all tests in this folder."""

from tests.data.surroundings import cache, data, impatient, server, source

__all__ = ["cache", "data", "impatient", "server", "source"]
