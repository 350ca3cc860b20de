"""Fixtures: the stand-in as CuPy, and comparisons of its results with the CPU's."""

import sys

import numpy as np
import pytest

from minilora.backend import to_host
from minilora.nn import Module
from tests.gpu import standin


@pytest.fixture
def cupy(monkeypatch):
    """The stand-in under CuPy's name, whether or not CuPy is installed."""
    module = standin.module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.fixture
def same_on_both(cupy):
    """same_on_both(compute): check that compute("cuda") and compute("cpu") are bit-for-bit identical."""

    def compare(compute):
        host, card = compute("cpu"), compute("cuda")
        assert bits(card) == bits(host)

    return compare


def bits(found):
    """Convert the results of a test to a form that == compares bit for bit."""
    if isinstance(found, Module):
        return bits(found.state_dict())
    if isinstance(found, dict):
        return {key: bits(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [bits(value) for value in found]
    if hasattr(found, "dtype"):
        array = np.asarray(to_host(found))
        return array.dtype.str, array.shape, array.tobytes()
    return found
