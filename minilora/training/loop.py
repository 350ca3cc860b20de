"""The training loop, the same for pretraining, full fine-tuning and LoRA: it trains what wants a gradient."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from minilora.backend import keep_freed_memory
from minilora.data.batches import check_length, sample_batch
from minilora.nn import Llama
from minilora.threads import Threads
from minilora.training import checkpoint
from minilora.training.checkpoint import CheckpointError, History
from minilora.training.config import TrainingConfig
from minilora.training.evaluate import evaluate
from minilora.training.progress import Progress
from minilora.training.schedule import warmup_cosine
from minilora.training.step import add_gradients, make_optimizer


class TrainingError(ValueError):
    """Training cannot go on."""


class Interrupted(Exception):
    """The person pressed Ctrl-C; with a checkpoint_path, the state is saved."""


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
    steps = train_steps(
        model, train_ids, val_ids, config, checkpoint_path, resume=resume, sample=sample, quiet=quiet, threads=threads
    )
    with _ctrl_c() as pressed, closing(steps):
        for history in steps:
            finished = history.evaluations[-1][0] == config.iters
            if pressed.is_set() and not finished:
                raise Interrupted(f"stopped after step {len(history.losses)} of {config.iters}")
    return history


def train_steps(
    model: Llama,
    train_ids: np.ndarray,
    val_ids: np.ndarray,
    config: TrainingConfig,
    checkpoint_path: Path | None = None,
    *,
    resume: bool = False,
    sample: Callable[[], str] | None = None,
    quiet: bool = True,
    threads: int | None = None,
) -> Generator[History, None, None]:
    """As `train`, but yields the losses so far after every step and at the end, for who shows them in their own way.

    To stop, close it: the state is saved, if there is a checkpoint_path. It may go on in another thread.
    """
    keep_freed_memory()
    _check(model, train_ids, val_ids, config.context)
    pool = Threads(threads, model.device)
    run = _Run(model, train_ids, val_ids, config, checkpoint_path)
    if resume:
        run.load()
    elif checkpoint_path and checkpoint_path.exists():
        raise CheckpointError(f"{checkpoint_path} holds a run; go on with resume=True, or keep it and choose another")
    else:
        run.save()
    shown = Progress(config.iters, run.steps, config.batch * config.context * config.accumulate, quiet)
    try:
        with pool:
            while run.steps < config.iters:
                if run.steps % config.eval_every == 0:
                    run.evaluate(shown, sample, pool)
                run.step(pool)
                shown.step(run.steps, run.history.losses[-1])
                if run.steps % config.checkpoint_every == 0:
                    run.save()
                yield run.history
            run.evaluate(shown, sample, pool)
            run.save()
            yield run.history
    except GeneratorExit:
        run.save()
        raise
    finally:
        model.eval()
        shown.close()


class _Run:
    """What changes while a run goes: the parameters and moments, the generator, the losses; and how to save it."""

    def __init__(
        self, model: Llama, ids: np.ndarray, val_ids: np.ndarray, config: TrainingConfig, path: Path | None
    ) -> None:
        self.model, self.ids, self.val_ids, self.config, self.path = model, ids, val_ids, config, path
        self.rng = np.random.default_rng(config.seed)
        self.optimizer = make_optimizer(model, config)
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

    @np.errstate(all="ignore")  # what is not finite is found below, and said once
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

    @np.errstate(all="ignore")
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
    model.refuse_if_merged("train")
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
