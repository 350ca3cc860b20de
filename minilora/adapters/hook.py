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

    A parameter is changed in place, `p.data[...] = `, trained or frozen.
    """

    def penalty(self) -> Tensor | None:
        """A scalar to add to the loss, once a step. It has no part in the recorded losses, which are in nats."""
        return None

    def before_update(self, run: Training) -> None:
        """After the gradients, clipped, are in each `p.grad`; they may be changed in place."""

    def after_update(self, run: Training) -> None:
        """After the optimizer has changed the parameters; `p.grad` still holds the gradients."""

    @property
    def state(self) -> dict[str, Array]:
        """The arrays that a checkpoint has to keep, frozen weights that the hook changes among them.

        A resumed run copies the saved numbers into these arrays, so their shapes must not change. For a number, use an
        array of shape ().
        """
        return {}
