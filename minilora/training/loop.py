"""The training loop, the same for pretraining, full fine-tuning and adapters: it trains what has requires_grad=True."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from minilora.nn import Llama
from minilora.training.checkpoint import CheckpointError, History
from minilora.training.config import TrainingConfig
from minilora.training.progress import Progress
from minilora.training.run import Run


class Interrupted(Exception):
    """Ctrl-C was pressed; with a checkpoint_path, the state has been saved."""


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
    """Train the parameters of `model` with requires_grad=True; return the losses.

    Parameters
    ----------
    train_ids, val_ids : token ids, (n,)
    checkpoint_path : the file to keep the state in; None to keep none
    resume : go on from that state; the result is bit-identical to a run that never stopped
    sample : makes a text to show at each evaluation
    quiet : show nothing
    threads : pieces of a batch worked on at a time, by default one per core; any number gives the same bits. A GPU is
        kept busy by one

    Raises
    ------
    TrainingError : a loss, gradient or parameter is not finite; names the step and the last good checkpoint
    Interrupted : Ctrl-C was pressed; the state has been saved, if there is a checkpoint_path
    CheckpointError : the checkpoint to resume from is missing, broken or of another run, or without `resume` one exists
    ValueError : nothing is trainable, a text is too short for the context, the context is longer than the model's, or
        threads is below 1; nothing is written
    """
    steps = train_steps(
        model, train_ids, val_ids, config, checkpoint_path, resume=resume, sample=sample, quiet=quiet, threads=threads
    )
    with _ctrl_c() as pressed, closing(steps):
        for run in steps:
            finished = run.history.evaluations[-1][0] == config.iters
            if pressed.is_set() and not finished:
                raise Interrupted(f"stopped after step {run.steps} of {config.iters}")
    return run.history


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
) -> Generator[Run, None, None]:
    """Generator form of `train`: yields the Run after each step and at the end, for callers with their own display.

    Closing it stops the run and saves its state, if there is a checkpoint_path. `next` may be called from any thread.
    """
    run = Run(model, train_ids, val_ids, config, checkpoint_path, threads)
    if resume:
        run.load()
    elif checkpoint_path and checkpoint_path.exists():
        raise CheckpointError(f"{checkpoint_path} holds a run; go on with resume=True, or keep it and choose another")
    else:
        run.save()
    shown = Progress(config.iters, run.steps, config.batch * config.context * config.accumulate, quiet)
    try:
        with run.threads:
            while run.steps < config.iters:
                if run.steps % config.eval_every == 0:
                    _evaluate(run, shown, sample)
                shown.step(run.steps + 1, run.step())
                if run.steps % config.checkpoint_every == 0:
                    run.save()
                yield run
            _evaluate(run, shown, sample)
            run.save()
            yield run
    except GeneratorExit:
        run.save()
        raise
    finally:
        model.eval()
        shown.close()


def _evaluate(run: Run, shown: Progress, sample: Callable[[], str] | None) -> None:
    """Evaluate and show the loss with a sample, unless this step has been evaluated."""
    if run.history.evaluations and run.history.evaluations[-1][0] == run.steps:
        return
    with shown.evaluating():
        loss = run.evaluate()
        text = sample() if sample and not shown.quiet else ""
    recent = run.history.losses[-run.config.eval_every :]
    shown.evaluation(run.steps, float(np.mean(recent)) if recent else math.nan, loss, text)


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
