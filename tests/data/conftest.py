"""The fixtures of `surroundings.py`, for every test in this folder."""

from tests.data.surroundings import cache, data, impatient, server, source

__all__ = ["cache", "data", "impatient", "server", "source"]
