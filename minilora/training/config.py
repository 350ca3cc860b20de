"""The configuration of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from minilora.nn.config import plain_scalars
from minilora.training.optimizer import optimizers
from minilora.training.schedule import SCHEDULES, learning_rate

LONGEST_WARMUP = 100  # steps, if none are given
OPTIONAL = ("sample_every", "patience")
POSITIVE = ("iters", "batch", "context", "accumulate", "eval_every", "eval_windows", "checkpoint_every", *OPTIONAL)
CHANGEABLE_LATER = ("iters", "eval_every", "sample_every", "checkpoint_every", "patience")
"""Settings that may change when a run is resumed. With another `iters`, the learning rate follows the new schedule."""


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of a training run.

    Attributes
    ----------
    iters : number of optimizer steps
    batch, context : windows per batch, and tokens per window
    accumulate : number of batches whose gradients are averaged in one step
    optimizer : name of the optimizer, "adamw" or "sgd"
    schedule : learning-rate schedule after the warmup, "cosine", "linear" or "constant"
    lr, min_lr : peak and final learning rate; a final rate above the peak counts as the peak
    warmup : number of warmup steps; None for 100, but at most a fifth of `iters`
    weight_decay : weight decay λ, for every optimizer
    beta1, beta2 : AdamW's β₁ and β₂
    grad_clip : maximum gradient norm; 0 for no limit
    eval_every, eval_windows : steps between evaluations, and windows per evaluation
    sample_every : steps between samples of the model's text; None for one at each evaluation
    checkpoint_every : steps between checkpoints
    keep : which parameters remain at the end: "last", or "best" for those with the lowest validation loss
    patience : stop after this number of evaluations in a row without a new lowest validation loss; None for never
    seed : seed of all random numbers in the run
    """

    iters: int = 1000
    batch: int = 16
    context: int = 128
    accumulate: int = 1
    optimizer: str = "adamw"
    schedule: str = "cosine"
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int | None = None
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    grad_clip: float = 1.0
    eval_every: int = 250
    eval_windows: int = 256
    sample_every: int | None = None
    checkpoint_every: int = 100
    keep: str = "last"
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        plain_scalars(self)
        for name in POSITIVE:
            value = getattr(self, name)
            if (not isinstance(value, int) or value < 1) and not (value is None and name in OPTIONAL):
                raise ValueError(f"expected `{name}` to be a positive integer, got {value!r}")
        for name in ("lr", "min_lr", "warmup", "weight_decay", "beta1", "beta2", "grad_clip", "seed"):
            if not isinstance(value := getattr(self, name), Real) and (name, value) != ("warmup", None):
                raise ValueError(f"expected `{name}` to be a number, got {value!r}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"expected `lr` to be positive and finite, got {self.lr}")
        if not isinstance(self.seed, Integral):
            raise ValueError(f"expected `seed` to be an integer, got {self.seed!r}")
        for name, known in {"optimizer": [*optimizers()], "schedule": [*SCHEDULES], "keep": ["last", "best"]}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"expected `{name}` to be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("min_lr", "warmup", "weight_decay", "grad_clip", "seed"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise ValueError(f"expected `{name}` to be non-negative and finite, got {getattr(self, name)!r}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"expected `{name}` to be at least 0 and below 1, got {getattr(self, name)!r}")

    @property
    def warmup_steps(self) -> int:
        """The number of warmup steps, also if `warmup` is None."""
        return min(LONGEST_WARMUP, self.iters // 5) if self.warmup is None else self.warmup

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        return learning_rate(
            step,
            self.iters,
            schedule=self.schedule,
            lr=self.lr,
            min_lr=min(self.min_lr, self.lr),
            warmup=self.warmup_steps,
        )
