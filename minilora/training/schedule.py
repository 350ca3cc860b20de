"""Learning-rate schedules: a linear warmup, then a schedule selected by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[float], float]
"""Maps the progress after the warmup (0 to 1) to a position between `min_lr` (0) and `lr` (1)."""

SCHEDULES: dict[str, Schedule] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}


def learning_rate(
    step: int, iters: int, *, schedule: str = "cosine", lr: float, min_lr: float = 0.0, warmup: int = 0
) -> float:
    """The learning rate of step `step`, counted from 0.

    It rises linearly to `lr` over `warmup` steps, then falls to `min_lr` at step `iters`. The "constant" schedule stays
    at `lr`.
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, iters - warmup)
    return min_lr + (lr - min_lr) * SCHEDULES[schedule](min(1.0, progress))
