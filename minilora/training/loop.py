"""The training loop, the same for pretraining, full fine-tuning and LoRA: it trains what wants a gradient."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from minilora.backend import keep_freed_memory
from minilora.data.batches import check_length, sample_batch
from minilora.lora.inject import refuse_if_merged
from minilora.nn import Llama
from minilora.training import checkpoint
from minilora.training.checkpoint import CheckpointError, History
from minilora.training.evaluate import evaluate
from minilora.training.optimizer import AdamW
from minilora.training.progress import Progress
from minilora.training.schedule import warmup_cosine
from minilora.training.step import add_gradients
from minilora.training.threads import Threads


class TrainingError(ValueError):
    """Training cannot go on."""


class Interrupted(Exception):
    """The person pressed Ctrl-C; with a checkpoint_path, the state is saved."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes
    ----------
    iters : optimizer steps
    batch, context : windows per step and tokens per window
    accumulate : batches whose gradients are averaged into one step
    lr, min_lr, warmup : the learning rate's peak, its end, and the steps until the peak
    weight_decay, beta1, beta2 : AdamW's λ, β₁, β₂
    grad_clip : the longest gradient allowed; 0 for no limit
    eval_every, eval_windows : steps between evaluations; windows in each
    checkpoint_every : steps between checkpoints
    seed : of everything random in the run
    """

    iters: int = 1000
    batch: int = 16
    context: int = 128
    accumulate: int = 1
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 100
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    grad_clip: float = 1.0
    eval_every: int = 250
    eval_windows: int = 256
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iters", "batch", "context", "accumulate", "eval_every", "eval_windows", "checkpoint_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} should be a whole number of at least 1, got {value!r}")
        for name in ("min_lr", "warmup", "weight_decay", "grad_clip", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} should be 0 or more, and finite, got {getattr(self, name)!r}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} should be at least 0 and below 1, got {getattr(self, name)!r}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr should be positive and finite, got {self.lr}")


def train(
    model: Llama,
    train_ids: np.ndarray,
    val_ids: np.ndarray,
    config: TrainingConfig,
    *,
    checkpoint_path: Path | None = None,
    resume: bool = False,
    sample: Callable[[], str] | None = None,
    quiet: bool = False,
    threads: int | None = None,
) -> History:
    """Train the parameters of `model` that want a gradient; return the losses.

    Parameters
    ----------
    train_ids, val_ids : token ids, (n,)
    checkpoint_path : where to keep the state; none is kept without it
    resume : go on from that state; the result is bit-identical to a run that never stopped
    sample : makes a text to show at each evaluation
    quiet : show nothing
    threads : pieces of a batch worked on at a time, by default one per core; any number gives the same bits. A GPU is
        kept busy by one

    Raises
    ------
    TrainingError : a loss, gradient or parameter is not finite; names the step and the last good checkpoint
    Interrupted : Ctrl-C was pressed; the state has been saved, if there is a checkpoint_path
    CheckpointError : the state to resume from is missing, broken or of another run; or, without `resume`, there is one
    ValueError : a text is too short for the context, the context longer than the model's, or threads below 1; nothing
        is written
    """
    keep_freed_memory()
    _check(model, train_ids, val_ids, config.context)
    pool = Threads(1 if model.device == "cuda" else threads)
    run = _Run(model, train_ids, val_ids, config, checkpoint_path)
    if resume:
        run.load()
    elif checkpoint_path and checkpoint_path.exists():
        raise CheckpointError(f"{checkpoint_path} holds a run; go on with resume=True, or keep it and choose another")
    else:
        run.save()
    shown = Progress(config.iters, run.steps, config.batch * config.context * config.accumulate, quiet)
    try:
        # NumPy need not warn of overflow: what is not finite is found below, and said once.
        with _ctrl_c() as pressed, np.errstate(all="ignore"), pool:
            while run.steps < config.iters:
                if run.steps % config.eval_every == 0:
                    run.evaluate(shown, sample, pool)
                run.step(pool)
                shown.step(run.steps, run.history.losses[-1])
                if run.steps % config.checkpoint_every == 0:
                    run.save()
                if pressed.is_set():
                    run.save()
                    raise Interrupted(f"stopped after step {run.steps} of {config.iters}")
            run.evaluate(shown, sample, pool)
            run.save()
    finally:
        model.eval()
        shown.close()
    return run.history


class _Run:
    """What changes while a run goes: the parameters and moments, the generator, the losses; and how to save it."""

    def __init__(
        self, model: Llama, ids: np.ndarray, val_ids: np.ndarray, config: TrainingConfig, path: Path | None
    ) -> None:
        self.model, self.ids, self.val_ids, self.config, self.path = model, ids, val_ids, config, path
        self.rng = np.random.default_rng(config.seed)
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.optimizer = AdamW(trainable, config.weight_decay, (config.beta1, config.beta2))
        self.history = History()
        self.settings = {**dataclasses.asdict(config), **checkpoint.fingerprints(model, ids, val_ids)}

    @property
    def steps(self) -> int:
        """How many steps have been done."""
        return self.optimizer.steps

    def save(self) -> None:
        if not np.isfinite(self.optimizer.data).all():
            raise self.error(f"a parameter is not finite after step {self.steps}")
        if self.path:
            checkpoint.save(self.path, self.optimizer, self.rng, self.history, self.settings)

    def load(self) -> None:
        if not self.path:
            raise CheckpointError("cannot resume without a checkpoint_path")
        checkpoint.load(self.path, self.optimizer, self.rng, self.history, self.settings)

    def step(self, pool: Threads) -> None:
        """One update from `accumulate` batches."""
        c = self.config
        self.model.train(np.random.default_rng(c.seed))  # its pieces draw from generators of their own
        batches = [sample_batch(self.ids, c.batch, c.context, self.rng) for _ in range(c.accumulate)]
        loss = add_gradients(self.model, self.optimizer, batches, pool, (c.seed, self.steps))
        norm = self.optimizer.clip(c.grad_clip)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self.error(f"the loss is {loss} and the gradient's length {norm} at step {self.steps + 1}")
        self.optimizer.step(warmup_cosine(self.steps, c.iters, c.warmup, c.lr, c.min_lr))
        self.history.losses.append(loss)

    def evaluate(self, shown: Progress, sample: Callable[[], str] | None, pool: Threads) -> None:
        """Measure the validation loss and show it with a sample, unless a resumed run already has."""
        evaluations, c = self.history.evaluations, self.config
        if evaluations and evaluations[-1][0] == self.steps:
            return
        self.model.eval()
        with shown.evaluating():
            loss = evaluate(self.model, self.val_ids, c.context, c.eval_windows, threads=pool.number)
            text = sample() if sample and not shown.quiet and math.isfinite(loss) else ""
        if not math.isfinite(loss):
            raise self.error(f"the validation loss is {loss} after step {self.steps}")
        evaluations.append((self.steps, loss))
        recent = self.history.losses[-c.eval_every :]
        shown.evaluation(self.steps, float(np.mean(recent)) if recent else math.nan, loss, text)

    def error(self, problem: str) -> TrainingError:
        """`problem`, what is left, and what to do."""
        kept = self.path and self.path.exists()
        left = f"the last good state is in {self.path}" if kept else "no checkpoint was kept"
        return TrainingError(f"{problem}; {left}. A lower learning rate than {self.config.lr:g} usually helps")


def _check(model: Llama, train_ids: np.ndarray, val_ids: np.ndarray, context: int) -> None:
    """Raise ValueError now rather than in the middle of a run."""
    refuse_if_merged(model, "train")
    longest = model.config.max_position_embeddings
    if context > longest:
        raise ValueError(f"a context of {context} tokens is more than the model's, which is {longest}")
    for ids in (train_ids, val_ids):
        check_length(ids, context)


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that a step is finished before the run stops. A second Ctrl-C stops at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield pressed
        return

    def handle(number: int, frame: FrameType | None) -> Any:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
