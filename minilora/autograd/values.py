"""Values from outside: numbers, lists and array-likes of other libraries, as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.backend import Array, device_of
from minilora.messages import shown


def as_array(data: Any, dtype: Any = np.float32) -> Array:
    """Convert numbers, nested lists and array-likes, such as a pandas Series, to an array.

    Arrays keep their dtype; numbers and lists are converted to `dtype`. Raises TypeError for anything but numbers.
    """
    if type(data) is np.ndarray or device_of(data) != "cpu":
        array = data
    else:
        try:
            array = np.asarray(data)
        except (TypeError, ValueError):  # lists of different lengths
            array = np.asarray(None)
    if array.dtype.kind not in "fiubc":
        kind = f"{type(data).__name__} of {array.dtype}" if hasattr(data, "dtype") else shown(data)
        raise TypeError(f"expected an array, a number or a nested list of numbers, got {kind}")
    return array if hasattr(data, "dtype") else array.astype(dtype)


def as_operand(x: Any, dtype: Any) -> Any:
    """Convert an input of an op to an array or a Python number. Numbers, lists and 0-d arrays never widen the dtype."""
    if isinstance(x, np.ndarray) and x.ndim == 0:
        return x.item()
    if isinstance(x, int | float | complex | np.generic):
        return plain(x)
    return as_array(x, dtype)


def plain(x: Any) -> Any:
    """Convert NumPy scalars to Python scalars, which never promote a float32 array to float64."""
    return x.item() if isinstance(x, np.generic) else x
