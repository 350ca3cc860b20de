"""Training batches and fixed validation windows from a sequence of token ids."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral

import numpy as np

from minilora.messages import shown


def sample_batch(ids: np.ndarray, batch: int, context: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw `batch` windows at random positions: inputs and next-token targets, each (batch, context).

    The state of `rng` determines the windows, so restoring it continues with the same batches.
    """
    check_length(ids, context)
    starts = rng.integers(0, len(ids) - context, size=batch)
    return _windows(ids, starts, context)


def fixed_windows(ids: np.ndarray, count: int, context: int, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `count` evenly spaced windows of `ids`, always the same ones, in batches of at most `batch`."""
    if not isinstance(count, Integral) or count < 1:
        raise ValueError(f"expected the number of windows to be a positive integer, got {shown(count)}")
    check_length(ids, context)
    starts = np.linspace(0, len(ids) - context - 1, count).astype(np.int64)
    for first in range(0, count, batch):
        yield _windows(ids, starts[first : first + batch], context)


def check_length(ids: np.ndarray, context: int) -> None:
    """Raise ValueError if `context` is not positive, or `ids` has fewer than `context` + 1 tokens."""
    if not isinstance(context, Integral) or context < 1:
        raise ValueError(f"expected `context` to be a positive integer, got {shown(context)}")
    if getattr(ids, "ndim", None) != 1 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"expected token ids, an integer array of shape (n,), got {type(ids).__name__}; load_ids reads a text"
        )
    if len(ids) < context + 1:
        raise ValueError(
            f"the text has {len(ids)} tokens, but one window needs {context + 1}; "
            "use a longer text or a shorter context"
        )


def _windows(ids: np.ndarray, starts: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    places = starts[:, None] + np.arange(context + 1)  # (batch, context + 1)
    rows = ids[places]
    return rows[:, :-1], rows[:, 1:]
