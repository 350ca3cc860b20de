"""From one long row of token ids to training batches and fixed validation windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def sample_batch(ids: np.ndarray, batch: int, context: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`batch` windows from random places: inputs and next-token targets, each (batch, context).

    The generator's state is the whole of the data position: the same state draws the same windows.
    """
    check_length(ids, context)
    starts = rng.integers(0, len(ids) - context, size=batch)
    return _windows(ids, starts, context)


def fixed_windows(ids: np.ndarray, count: int, context: int, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`count` windows spread evenly over `ids`, always the same ones, in batches of at most `batch`."""
    if count < 1:
        raise ValueError(f"expected at least one window to look at, got {count}")
    check_length(ids, context)
    starts = np.linspace(0, len(ids) - context - 1, count).astype(np.int64)
    for first in range(0, count, batch):
        yield _windows(ids, starts[first : first + batch], context)


def check_length(ids: np.ndarray, context: int) -> None:
    """Raise ValueError when `ids` has no window of `context` tokens and the token after it."""
    if context < 1:
        raise ValueError(f"the context should be at least 1 token, got {context}")
    if len(ids) < context + 1:
        raise ValueError(
            f"the text has {len(ids)} tokens, but one window needs {context + 1}; "
            "give a longer text or a shorter context"
        )


def _windows(ids: np.ndarray, starts: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    places = starts[:, None] + np.arange(context + 1)  # (batch, context + 1)
    rows = ids[places]
    return rows[:, :-1], rows[:, 1:]
