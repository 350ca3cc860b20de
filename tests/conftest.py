"""For every test: Hypothesis draws the same cases each time, and takes the time that a slow machine needs."""

import gc

import pytest
from hypothesis import settings

settings.register_profile("minilora", deadline=None, derandomize=True)
settings.load_profile("minilora")


@pytest.fixture
def without_collector():
    """Only reference counts free memory here."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
