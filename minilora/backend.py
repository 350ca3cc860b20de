"""Which library holds the numbers: NumPy, or CuPy on a GPU. Other files ask here.

The operations are written with NumPy's functions, which hand over to whichever library owns the array they are
given. Only making an array out of nothing needs to know, and asks here; and so does whoever brings an array from the
host to the GPU or home again, which nothing does by itself. At the end: how the memory of large arrays is kept.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

DEVICES = "cpu", "cuda"

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""An array of numbers, NumPy's or CuPy's."""


class DeviceError(ValueError):
    """A device that is not there; the message says what is missing and what to do."""


def array_module(array: Any) -> ModuleType:
    """The module that `array` belongs to: `numpy`, or `cupy` for an array on a GPU."""
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(array, cupy.ndarray) else np


def device_of(array: Any) -> str:
    """The name of the device that `array` lies on: "cpu", or "cuda" for a GPU."""
    return "cpu" if array_module(array) is np else "cuda"


def device_module(device: str) -> ModuleType:
    """The module whose arrays lie on `device`: `numpy` for "cpu", `cupy` for "cuda".

    Raises DeviceError for another name, or where CuPy or a GPU is missing.
    """
    if device == "cpu":
        return np
    if device != "cuda":
        raise DeviceError(f"expected the device {' or '.join(map(repr, DEVICES))}, got {device!r}")
    try:
        import cupy
    except ModuleNotFoundError:
        raise DeviceError(
            "the device 'cuda' needs CuPy, which is not installed; pip install \"cupy-cuda12x[ctk]\", or use 'cpu'"
        ) from None
    except ImportError:  # its own explanation is a page long
        raise DeviceError(
            "the device 'cuda' needs CuPy, which is installed but does not load; `python -c \"import cupy\"` says why"
        ) from None
    try:
        problem = "" if cupy.cuda.runtime.getDeviceCount() else "it counts 0"
    except RuntimeError as error:  # no driver, an old one, or no card
        problem = str(error)
    if problem:
        raise DeviceError(f"the device 'cuda' needs an NVIDIA GPU, and CuPy finds none ({problem}); use 'cpu'")
    return cupy


def to_device(array: Any, device: str) -> Any:
    """`array` on the device of that name, copied there unless it is there already. Raises DeviceError."""
    xp = device_module(device)
    return to_host(array) if xp is np else xp.asarray(array)


def to_host(array: Any) -> Any:
    """`array` as NumPy's: from a GPU a copy, and otherwise the array itself."""
    xp = array_module(array)
    return array if xp is np else xp.asnumpy(array)


def like(array: Any, other: Any) -> Any:
    """`array` on the device of `other`, copied there unless it is there already."""
    xp = array_module(other)
    return to_host(array) if xp is np else xp.asarray(array)


def copy_into(target: Any, array: Any) -> None:
    """Write `array`, from whichever device, over the numbers of `target`."""
    target[...] = like(array, target)


@functools.cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep large freed blocks for the next step, instead of returning them to the system.

    A training step frees and takes the same large arrays again and again; returned blocks must be mapped and
    zeroed anew each time, which can cost as much as the arithmetic. All threads share one store
    (glibc says arena), because small stores of their own would return blocks all the same. Works on Linux with
    glibc; does nothing elsewhere. Says whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX, one_gib = -1, -3, -8, 1 << 30  # malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    wishes = [(M_TRIM_THRESHOLD, one_gib), (M_MMAP_THRESHOLD, one_gib), (M_ARENA_MAX, 1)]
    return all([mallopt(*wish) for wish in wishes])
