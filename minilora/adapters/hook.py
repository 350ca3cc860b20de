"""Training hooks let a method act during training, as in AdaLoRA (pruning ranks) or ReLoRA (merging and restarting).

A method returns its hook from `Method.hook`; `training/run.py` calls the hook at every step.
"""

from __future__ import annotations

from typing import Protocol

from minilora.autograd.tensor import Tensor
from minilora.backend import Array
from minilora.nn import Llama


class RunConfig(Protocol):
    """The training settings available to a hook (see `training.TrainingConfig`)."""

    @property
    def iters(self) -> int: ...
    @property
    def seed(self) -> int: ...


class RunView(Protocol):
    """The part of a training run available to a hook (see `training.Run`)."""

    @property
    def model(self) -> Llama: ...
    @property
    def config(self) -> RunConfig: ...
    @property
    def steps(self) -> int:
        """The number of optimizer steps so far."""

    def forget(self, parameter: Tensor) -> None:
        """Reset the optimizer state of one parameter to zero."""


class Hook:
    """Base class of training hooks. A run calls the methods at every step, in this order; by default they do nothing.

    A hook may change any parameter, trained or frozen, but only in place: `p.data[...] = value`.
    """

    def penalty(self) -> Tensor | None:
        """Return a scalar to add to the loss, once per step, or None. The recorded losses exclude it."""
        return None

    def before_update(self, run: RunView) -> None:
        """Called after gradient clipping and before the optimizer step. May change the gradients `p.grad` in place."""

    def after_update(self, run: RunView) -> None:
        """Called after the optimizer step. `p.grad` still has the gradients."""

    @property
    def state(self) -> dict[str, Array]:
        """The arrays to save in a checkpoint, including frozen weights that the hook changes.

        A resumed run copies the saved values into these arrays, so their shapes must not change. Store a scalar as an
        array of shape ().
        """
        return {}
