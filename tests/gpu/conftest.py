"""The stand-in as CuPy, and what is computed both ways: on the host, and on the stand-in."""

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
    """same_on_both(compute): compute("cuda") gives what compute("cpu") gives, bit for bit."""

    def compare(compute):
        host, card = compute("cpu"), compute("cuda")
        assert bits(card) == bits(host)

    return compare


def bits(found):
    """Whatever a test has computed, in a form that == compares bit by bit."""
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
