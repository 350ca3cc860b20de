"""Programs that do not compute the same are not compared: a wrong answer can be had in no time at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

TOLERANCE = 1e-3
"""Relative difference of two losses that rounding can explain after three steps."""

MOVED = 5 * TOLERANCE
"""How much of the loss training must take away for the comparison of the losses to mean something."""

STEPS = 3
"""Steps after which the losses are compared; the next step sees the first batch again."""


class Unequal(ValueError):
    """Two programs do different things, so that the ratio of their times means nothing."""


def same_losses(programs: Mapping[str, Callable[[], float]]) -> str:
    """Take three steps with each program; say in words that all had the same losses, before each step and after.

    Each program is one training step on the next batch, and returns the loss that it found before its update. Its
    fourth call sees the batch of its first again, after three updates. The calls also warm the programs up.

    Raises Unequal when losses differ, or when training changed them too little to show that it works.
    """
    losses = {name: [float(step()) for _ in range(STEPS + 1)] for name, step in programs.items()}
    first, *others = losses
    before, after = losses[first][0], losses[first][-1]
    if not (np.isfinite(after) and before - after > MOVED * before):
        raise Unequal(f"three steps of {first} took the loss from {before:.4f} to {after:.4f}, which shows nothing")
    for name in others:
        for step, (ours, theirs) in enumerate(zip(losses[first], losses[name], strict=True)):
            if not abs(theirs - ours) <= TOLERANCE * abs(ours):
                raise Unequal(f"after {step} steps the loss of {first} is {ours:.5f}, that of {name} {theirs:.5f}")
    return f"loss {before:.4f} → {after:.4f} in {STEPS} steps"


def same_tokens(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> str:
    """Say in words that both wrote the same tokens.

    Raises Unequal, naming the first place, when they did not, or when it is one token over and over.
    """
    if len(ours) != len(theirs):
        raise Unequal(f"{len(ours)} texts were written, and {len(theirs)}")
    for row, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if len(mine) != len(other):
            raise Unequal(f"text {row} has {len(mine)} tokens, and {len(other)}")
        different = np.flatnonzero(np.asarray(mine) != np.asarray(other))
        if different.size:
            raise Unequal(f"text {row} differs from its token {different[0]} on")
    if any(len(np.unique(row)) < 2 for row in ours):
        raise Unequal("a text is one token over and over, which shows nothing")
    return f"{len(ours[0])} tokens" if len(ours) == 1 else f"{len(ours)} texts of {len(ours[0])} tokens"
