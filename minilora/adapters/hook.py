"""Training hooks: a method's actions besides computing its update. AdaLoRA prunes ranks, ReLoRA merges and restarts.

A method returns its hook from `Method.hook`; `training/run.py` calls it in every step.
"""

from __future__ import annotations

from typing import Protocol

from minilora.autograd.tensor import Tensor
from minilora.backend import Array
from minilora.nn import Llama


class Settings(Protocol):
    """The settings of a run that a hook may depend on (`training.TrainingConfig`)."""

    @property
    def iters(self) -> int: ...
    @property
    def seed(self) -> int: ...


class Training(Protocol):
    """The part of a run that a hook sees (`training.Run`)."""

    @property
    def model(self) -> Llama: ...
    @property
    def config(self) -> Settings: ...
    @property
    def steps(self) -> int:
        """Updates done so far."""

    def forget(self, parameter: Tensor) -> None:
        """Zero the optimizer's state of one parameter."""


class Hook:
    """Called by a run in each step, in the order of the methods below. Each does nothing unless overridden.

    A hook may change any parameter, trained or frozen, but only in place: `p.data[...] = value`.
    """

    def penalty(self) -> Tensor | None:
        """A scalar to add to the loss, once per step; the recorded losses exclude it."""
        return None

    def before_update(self, run: Training) -> None:
        """Called after clipping, before the optimizer's step; the gradients in `p.grad` may be changed in place."""

    def after_update(self, run: Training) -> None:
        """Called after the optimizer's step; `p.grad` still holds the gradients."""

    @property
    def state(self) -> dict[str, Array]:
        """The arrays that a checkpoint has to keep, including frozen weights that the hook changes.

        A resumed run copies the saved numbers into these arrays, so their shapes must not change. For a number, use an
        array of shape ().
        """
        return {}
