"""On a real GPU, the results of `computations.py` are close to those of NumPy. Run these tests with `pytest -m gpu`."""

import inspect
from functools import reduce

import numpy as np
import pytest

from minilora.backend import DeviceError, device_module, to_host
from minilora.nn import Module
from tests.gpu.computations import COMPUTATIONS
from tests.gpu.standin import FUNCTIONS, UFUNCS


@pytest.fixture
def card():
    try:
        return device_module("cuda")
    except DeviceError as error:
        pytest.skip(str(error))


def numbers(found):
    """Flatten the results of a computation to a list of float64 arrays; strings stay strings."""
    if isinstance(found, Module):
        return numbers(found.state_dict())
    if isinstance(found, dict):
        return [x for value in found.values() for x in numbers(value)]
    if isinstance(found, list | tuple):
        return [x for value in found for x in numbers(value)]
    return [found if isinstance(found, str) else np.asarray(to_host(found), dtype=np.float64)]


@pytest.mark.gpu
@pytest.mark.parametrize("compute", COMPUTATIONS.values(), ids=COMPUTATIONS)
def test_a_card_computes_what_numpy_computes(card, compute, tmp_path):
    """Runs of several steps need a larger tolerance, because Adam divides by gradients that are almost zero."""
    expected, found = numbers(compute("cpu", tmp_path / "cpu")), numbers(compute("cuda", tmp_path / "cuda"))
    bound = 1e-2 if "run" in compute.__name__ else 1e-3 if "step" in compute.__name__ else 1e-4
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        if isinstance(y, str):
            assert isinstance(x, str)
        else:
            assert np.linalg.norm(x - y) <= bound * np.linalg.norm(y) + 1e-7


def test_the_stand_in_has_what_cupy_has():
    """Requires CuPy, but no GPU."""
    cupy = pytest.importorskip("cupy")
    for name, parameters in FUNCTIONS.items():
        asked = np.linalg.norm if name == "norm" else getattr(np, name)
        function = reduce(getattr, [*asked.__module__.split(".")[1:], name], cupy)  # as CuPy looks it up
        if name not in ("einsum", "array2string"):  # these accept any keyword and check it themselves
            assert set(parameters.split()) <= inspect.signature(function).parameters.keys(), name
    assert all(hasattr(cupy, name) for name in UFUNCS.split())
    assert hasattr(cupy.add, "at")
