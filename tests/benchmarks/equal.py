"""Checks that programs compute the same, made before they are timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

TOLERANCE = 1e-3
"""The largest relative difference of two losses that counts as rounding after three steps."""

MOVED = 5 * TOLERANCE
"""The smallest relative decrease of the loss for which a comparison of losses is meaningful."""

STEPS = 3
"""Number of training steps in the comparison; the call after them uses the first batch again."""


class Unequal(ValueError):
    """Raised if two programs compute different things, so that the ratio of their times is meaningless."""


def same_losses(programs: Mapping[str, Callable[[], float]]) -> str:
    """Check that all programs have the same losses before and after each of three steps; return a summary.

    Each program is a training step on the next batch that returns the loss before its update. The fourth call uses the
    first batch again, after three updates. The calls also warm up the programs.

    Raises Unequal if losses differ, or if training lowered them too little to show that it works.
    """
    losses = {name: [float(step()) for _ in range(STEPS + 1)] for name, step in programs.items()}
    first, *others = losses
    before, after = losses[first][0], losses[first][-1]
    if not (np.isfinite(after) and before - after > MOVED * before):
        raise Unequal(
            f"expected three steps of {first} to lower the loss by more than {MOVED:.1%}, got {before:.4f} before and "
            f"{after:.4f} after"
        )
    for name in others:
        for step, (ours, theirs) in enumerate(zip(losses[first], losses[name], strict=True)):
            if not abs(theirs - ours) <= TOLERANCE * abs(ours):
                raise Unequal(f"after {step} steps, {first} has a loss of {ours:.5f} and {name} of {theirs:.5f}")
    return f"loss {before:.4f} → {after:.4f} in {STEPS} steps"


def same_tokens(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> str:
    """Check that both programs generated the same tokens; return a summary.

    Raises Unequal, with the position of the first difference, if they did not, or if a text repeats a single token.
    """
    if len(ours) != len(theirs):
        raise Unequal(f"expected the same number of texts from both programs, got {len(ours)} and {len(theirs)}")
    for row, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if len(mine) != len(other):
            raise Unequal(f"text {row} has {len(mine)} tokens in one program and {len(other)} in the other")
        different = np.flatnonzero(np.asarray(mine) != np.asarray(other))
        if different.size:
            raise Unequal(f"text {row} differs from token {different[0]} onward")
    if any(len(np.unique(row)) < 2 for row in ours):
        raise Unequal("a text repeats a single token, so the comparison would show nothing")
    return f"{len(ours[0])} tokens" if len(ours) == 1 else f"{len(ours)} texts of {len(ours[0])} tokens"
