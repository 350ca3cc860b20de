"""A training run. Each step sets the learning rate, computes and clips the gradients, and updates the parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minilora.adapters.attach import hosts
from minilora.adapters.hook import Hook
from minilora.autograd.engine import gradients
from minilora.autograd.tensor import Tensor
from minilora.backend import Array, copy_into, keep_freed_memory
from minilora.data.batches import check_length, sample_batch
from minilora.nn import Llama
from minilora.nn.module import check_module, forget_folder
from minilora.threads import Threads
from minilora.training import checkpoint
from minilora.training.checkpoint import CheckpointError, History
from minilora.training.config import TrainingConfig
from minilora.training.evaluate import evaluate
from minilora.training.groups import make_optimizer
from minilora.training.pieces import Batch, add_gradients, smallest_piece


class TrainingError(ValueError):
    """Raised when a loss, gradient or parameter is not finite, so training cannot continue."""


class Run:
    """Trains the parameters of `model` with requires_grad=True: `run = Run(...); run.step()`.

    Parameters
    ----------
    model : the model; each step puts it into training mode
    train_ids, val_ids : token ids, each (n,). `train_ids` may be None if batches are passed to every `step`, and
        `val_ids` if `evaluate` is not called
    config : the training configuration
    checkpoint_path : the file that `save` writes and `load` reads; if None, `save` only checks the parameters and
        `load` raises CheckpointError
    threads : number of pieces of a batch computed in parallel, by default one per core; the result is bit-for-bit
        identical for any number. On a GPU, one thread is used

    Attributes
    ----------
    optimizer : the optimizer, which holds the parameters and their gradients
    hooks : the training hooks of the active adapters, by adapter name
    rng : the generator that draws the batches; its state determines the batches that follow
    history : the losses so far
    best : with config.keep "best", copies of the arrays with the lowest validation loss so far
    steps : number of updates so far

    Raises AdapterError while adapters are merged, and ValueError if no parameter is trainable, a text is too short for
    the context, or the context is longer than the model's.
    """

    def __init__(
        self,
        model: Llama,
        train_ids: Array | None,
        val_ids: Array | None,
        config: TrainingConfig,
        checkpoint_path: str | Path | None = None,
        threads: int | None = None,
    ) -> None:
        check_run(model, train_ids, val_ids, config.context)
        keep_freed_memory()
        self.model, self.train_ids, self.val_ids, self.config = model, train_ids, val_ids, config
        self.checkpoint_path = Path(checkpoint_path) if checkpoint_path else None
        self.threads = Threads(threads, model.device)
        self.rng = np.random.default_rng(config.seed)
        self.history = History()
        self.best: dict[str, Array] = {}
        if checkpoint_path:  # before a hook can change a frozen weight
            self.settings = {**dataclasses.asdict(config), **checkpoint.fingerprints(model, train_ids, val_ids)}
        if not hosts(model):  # full training
            forget_folder(model)
        self.hooks = _hooks(model)
        self.optimizer = make_optimizer(model, config)
        self.smallest_piece = smallest_piece(model)

    @property
    def steps(self) -> int:
        return self.optimizer.steps

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.config.learning_rate(self.steps)

    @property
    def finished(self) -> bool:
        """Whether the run has ended: all steps are done, or the validation loss stopped improving (config.patience)."""
        evaluations, patience = self.history.evaluations, self.config.patience
        if self.steps >= self.config.iters:
            return True
        if not evaluations or patience is None:
            return False
        return len(evaluations) - 1 - evaluations.index(self.history.best) >= patience

    def __repr__(self) -> str:
        kind = type(self.optimizer).__name__
        return f"Run(step {self.steps} of {self.config.iters}, {kind} on {self.optimizer.data.size:,} parameters)"

    @np.errstate(all="ignore")  # non-finite values are reported once, by `_refuse_not_finite`
    def step(self, batches: Sequence[Batch] | None = None) -> float:
        """Perform one update on the mean loss over `batches`, by default random ones; return the loss in nats."""
        rate, batches = self.rate, batches or self._draw()
        self.optimizer.zero_grad()
        loss = self._add_gradients(batches)
        norm = self.optimizer.clip(self.config.grad_clip)
        self._refuse_not_finite(loss, norm)
        for hook in self.hooks.values():
            hook.before_update(self)
        self.optimizer.step(rate)
        for hook in self.hooks.values():
            hook.after_update(self)
        self.history.losses.append(loss)
        return loss

    @np.errstate(all="ignore")
    def evaluate(self) -> float:
        """The validation loss in nats, which is also added to the history. It is computed at most once per step."""
        c, evaluations = self.config, self.history.evaluations
        if evaluations and evaluations[-1][0] == self.steps:
            return evaluations[-1][1]
        if self.val_ids is None:
            raise ValueError("cannot evaluate: this run has no val_ids")
        self.model.eval()
        loss = evaluate(self.model, self.val_ids, c.context, c.eval_windows, threads=self.threads.number)
        if not math.isfinite(loss):
            raise self._error(f"the validation loss is {loss} after step {self.steps}")
        evaluations.append((self.steps, loss))
        if c.keep == "best" and self.history.best[0] == self.steps:
            self.best = {name: array.copy() for name, array in checkpoint.result(self.optimizer, self.hooks).items()}
        return loss

    def restore_best(self) -> None:
        """With config.keep "best", go back to the parameters with the lowest validation loss."""
        for name, array in checkpoint.result(self.optimizer, self.hooks).items():
            if name in self.best:
                copy_into(array, self.best[name])

    def forget(self, parameter: Tensor) -> None:
        """Set the optimizer state of one parameter to zero."""
        self.optimizer.forget(parameter)

    def save(self) -> None:
        """Save a checkpoint. If a parameter is not finite, keep the previous checkpoint and raise TrainingError."""
        if not np.isfinite(self.optimizer.data).all():
            raise self._error(f"a parameter is not finite after step {self.steps}")
        if self.checkpoint_path:
            state = self.optimizer, self.rng, self.history, self.settings, self.hooks
            checkpoint.save(self.checkpoint_path, *state, self.best)

    def load(self) -> None:
        """Restore the checkpoint. The resumed run is bit-for-bit identical to an uninterrupted one."""
        if not self.checkpoint_path:
            raise CheckpointError("cannot resume: this run has no checkpoint_path")
        state = self.optimizer, self.rng, self.history, self.settings, self.hooks
        best = checkpoint.load(self.checkpoint_path, *state)
        self.best = best if self.config.keep == "best" else {}
        if self.steps > self.config.iters:
            raise CheckpointError(
                f"cannot resume: expected `iters` to be at least {self.steps}, the steps already done in "
                f"{self.checkpoint_path}, got {self.config.iters}; choose a larger `iters`"
            )

    def _draw(self) -> list[Batch]:
        c = self.config
        if self.train_ids is None:
            raise ValueError("cannot draw batches: this run has no train_ids; pass batches to `step`")
        return [sample_batch(self.train_ids, c.batch, c.context, self.rng) for _ in range(c.accumulate)]

    def _add_gradients(self, batches: Sequence[Batch]) -> float:
        """Add the gradients of the loss and the hooks' penalties; return the loss without the penalties."""
        self.model.train(np.random.default_rng(self.config.seed))  # each piece draws from its own generator
        seed = self.config.seed, self.steps
        with self.threads as threads:
            loss = add_gradients(self.model, self.optimizer, batches, threads, seed, self.smallest_piece)
            for hook in self.hooks.values():
                if (penalty := hook.penalty()) is not None:
                    self.optimizer.add(gradients(penalty, self.optimizer.parameters, release=True))
        return loss

    def _refuse_not_finite(self, loss: float, norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._error(f"the loss is {loss} and the gradient norm is {norm} at step {self.steps + 1}")

    def _error(self, problem: str) -> TrainingError:
        """A TrainingError with `problem`, the last good checkpoint and a suggestion."""
        path = self.checkpoint_path
        left = f"the last good state is in {path}" if path and path.exists() else "no checkpoint was saved"
        return TrainingError(f"{problem}; {left}. A lower learning rate than {self.config.lr:g} usually helps")


def check_run(model: Llama, train_ids: Array | None, val_ids: Array | None, context: int) -> None:
    """Raise an error if a run cannot start: adapters are merged, a text is too short, or the context is too long."""
    check_module(model)
    model.refuse_if_merged("train")
    longest = model.config.max_position_embeddings
    if context > longest:
        raise ValueError(f"a context of {context} tokens is longer than the model's maximum of {longest}")
    for ids in (train_ids, val_ids):
        if ids is not None:
            check_length(ids, context)


def _hooks(model: Llama) -> dict[str, Hook]:
    """The hook of each active adapter that has one."""
    configs = {name: host.config[name] for host in hosts(model).values() for name in host.active}
    return {name: hook for name, config in configs.items() if (hook := config.hook(model, name))}
