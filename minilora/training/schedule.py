"""The learning rate over time."""

from __future__ import annotations

import math


def warmup_cosine(step: int, iters: int, warmup: int, peak: float, floor: float) -> float:
    """Rise linearly to `peak` over `warmup` steps, then fall along a half cosine to `floor` at step `iters`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, iters - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
