"""Requesting a device: a one-line error if it is not available, and copies between devices."""

import sys

import numpy as np
import pytest

from minilora.backend import DeviceError, device_module, like, to_device, to_host
from tests.gpu import standin
from tests.gpu.computations import llama
from tests.gpu.conftest import bits


def no_driver():
    raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version")


class Broken:
    """Simulates an installed CuPy that cannot load its libraries; its error message has several lines."""

    def find_spec(self, name, path=None, target=None):
        if name == "cupy":
            raise ImportError("\n====\nFailed to import CuPy.\n====\n")


def without_driver():
    cupy = standin.module()
    cupy.cuda.runtime.getDeviceCount = no_driver
    return cupy


@pytest.mark.parametrize(
    ("cupy", "says"),
    [
        (None, r"requires CuPy, which is not installed; run pip install \"cupy-cuda12x\[ctk\]\", or use 'cpu'"),
        ("broken", "installed but fails to import"),
        (standin.module(devices=0), "requires an NVIDIA GPU, but CuPy finds none"),
        (without_driver(), "finds none .cudaErrorInsufficientDriver: .*; use 'cpu'"),
    ],
    ids=["no CuPy", "broken", "no GPU", "no driver"],
)
def test_a_device_that_is_not_there(cupy, says, monkeypatch):
    """Moving a model raises a one-line error and leaves the model unchanged."""
    monkeypatch.setitem(sys.modules, "cupy", cupy)  # None marks a module that cannot be imported
    if cupy == "broken":
        monkeypatch.delitem(sys.modules, "cupy")
        monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    model = llama("cpu", "a")
    before = bits(model)
    with pytest.raises(DeviceError, match=says) as caught:
        model.to("cuda")
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value).splitlines()) == 1
    assert bits(model) == before


@pytest.mark.parametrize("name", ["gpu", "cuda:1", None])
def test_another_name(name):
    with pytest.raises(DeviceError, match=r"expected `device` to be 'cpu' or 'cuda', got"):
        llama("cpu").to(name)


@pytest.mark.usefixtures("cupy")
def test_there_and_back_again():
    host = np.arange(4, dtype=np.float32)
    card = to_device(host, "cuda")
    assert to_device(card, "cuda") is card
    assert like(host, host) is host
    assert like(card, card) is card
    assert bits(like(host, card)) == bits(host)
    assert to_host(host) is host
    for home in (to_host(card), to_device(card, "cpu"), like(card, host)):
        assert type(home) is np.ndarray
        assert bits(home) == bits(host)


def test_the_host_needs_no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert device_module("cpu") is np
    assert llama("cpu").to("cpu").device == "cpu"
