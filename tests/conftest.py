"""Settings for all tests: Hypothesis draws the same examples in every run and has no deadline."""

import gc

import pytest
from hypothesis import settings

settings.register_profile("minilora", deadline=None, derandomize=True)
settings.load_profile("minilora")


@pytest.fixture
def without_collector():
    """Disable the garbage collector, so that only reference counting frees memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
