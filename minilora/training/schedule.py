"""The learning rate over time: a linear warmup, then a schedule chosen by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[float], float]
"""Maps the progress after the warmup, 0 to 1, to the position of the rate between `min_lr` (0) and `lr` (1)."""

SCHEDULES: dict[str, Schedule] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}


def learning_rate(
    step: int, iters: int, *, schedule: str = "cosine", lr: float, min_lr: float = 0.0, warmup: int = 0
) -> float:
    """The rate of step number `step`, counted from 0.

    It rises linearly to `lr` over `warmup` steps, then falls to `min_lr` at step `iters`; "constant" stays at `lr`.
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, iters - warmup)
    return min_lr + (lr - min_lr) * SCHEDULES[schedule](min(1.0, progress))
