"""The training loop for pretraining, full fine-tuning and adapters: it trains parameters with requires_grad=True."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from minilora.adapters.settings import replace_settings
from minilora.messages import expect
from minilora.nn import Llama
from minilora.training.checkpoint import CheckpointError, History
from minilora.training.config import TrainingConfig
from minilora.training.log import write_log
from minilora.training.progress import Progress
from minilora.training.run import Run


class Interrupted(Exception):
    """Raised after Ctrl-C. With a checkpoint_path, the state has been saved."""


def train(
    model: Llama,
    train_ids: np.ndarray,
    val_ids: np.ndarray,
    config: TrainingConfig | None = None,
    *,
    checkpoint_path: str | Path | None = None,
    resume: bool = False,
    log_path: str | Path | None = None,
    sample: Callable[[], str] | None = None,
    started: Callable[[], None] | None = None,
    quiet: bool = False,
    threads: int | None = None,
    **settings: Any,
) -> History:
    """Train the parameters of `model` with requires_grad=True and return the losses.

    Parameters
    ----------
    train_ids, val_ids : token ids, each (n,)
    config : the training configuration, by default TrainingConfig()
    checkpoint_path : the checkpoint file; None for no checkpoints
    resume : continue from the checkpoint. With the same iters, the result is bit-for-bit identical to that of an
        uninterrupted run. With a larger iters, a finished run continues on the new learning-rate schedule
    log_path : a CSV file with the losses (`write_log`), rewritten with each checkpoint and at the end
    sample : returns a text to print every `config.sample_every` steps
    started : called before the first step, after a checkpoint was loaded
    quiet : print nothing
    threads : number of pieces of a batch computed in parallel, by default one per core; the result is bit-for-bit
        identical for any number. On a GPU, one thread is used
    settings : fields of the config, such as iters or lr: `train(model, train_ids, val_ids, iters=200)`

    Raises
    ------
    TrainingError : a loss, gradient or parameter is not finite; the message gives the step and the last good checkpoint
    Interrupted : Ctrl-C was pressed; with a checkpoint_path, the state has been saved
    CheckpointError : the checkpoint to resume from is missing, corrupted or from a different run; or `resume` is False
        and the file exists
    ValueError : no parameter is trainable, a text is too short for the context, the context is longer than the
        model's, adapters are merged, or threads is below 1; nothing is written
    """
    config = TrainingConfig() if config is None else config
    expect(config, TrainingConfig, "a TrainingConfig")
    config = replace_settings(config, settings)
    common: Any = {"resume": resume, "log_path": log_path, "sample": sample, "quiet": quiet, "threads": threads}
    common["started"] = started
    steps = train_steps(model, train_ids, val_ids, config, checkpoint_path, **common)
    with _ctrl_c() as pressed, closing(steps):
        for run in steps:
            evaluated = run.history.evaluations[-1][0] == run.steps
            if pressed.is_set() and not (run.finished and evaluated):
                raise Interrupted(f"stopped after step {run.steps} of {config.iters}")
    return run.history


def train_steps(
    model: Llama,
    train_ids: np.ndarray,
    val_ids: np.ndarray,
    config: TrainingConfig,
    checkpoint_path: str | Path | None = None,
    *,
    resume: bool = False,
    log_path: str | Path | None = None,
    sample: Callable[[], str] | None = None,
    started: Callable[[], None] | None = None,
    quiet: bool = True,
    threads: int | None = None,
) -> Generator[Run, None, None]:
    """Generator form of `train`: yields the Run after each step and at the end, for callers with their own display.

    Closing the generator stops the run and, with a checkpoint_path, saves its state. `next` may be called from any
    thread.
    """
    run = Run(model, train_ids, val_ids, config, checkpoint_path, threads)
    if resume:
        run.load()
    elif checkpoint_path and Path(checkpoint_path).exists():
        raise CheckpointError(f"{checkpoint_path} already exists; continue with resume=True, or choose another path")
    else:
        run.save()
    tokens = config.batch * config.context * config.accumulate
    if started:
        started()
    evaluated = run.history.evaluations[-1][0] if run.history.evaluations else -1
    recent = run.history.losses[max(0, evaluated) :]
    shown = Progress(config.iters, run.steps, tokens, quiet, eval_every=config.eval_every, losses=recent)
    shown.sampled = evaluated  # a resumed run does not repeat its last sample

    _tell_if_stopped(run, shown)

    def save() -> None:
        run.save()
        if log_path:
            write_log(log_path, run.history)

    try:
        with run.threads:
            while not run.finished:
                if run.steps % config.eval_every == 0:
                    _evaluate(run, shown)
                _sample(run, shown, sample)
                if run.finished:
                    break
                shown.step(run.steps + 1, run.step())
                if run.steps % config.checkpoint_every == 0:
                    save()
                yield run
            _evaluate(run, shown)
            _sample(run, shown, sample, last=True)
            save()
            run.restore_best()
            yield run
    except GeneratorExit:
        save()
        raise
    finally:
        model.eval()
        shown.close()


def _evaluate(run: Run, shown: Progress) -> None:
    """Evaluate the model and show the loss, unless this was already done at this step."""
    if run.history.evaluations and run.history.evaluations[-1][0] == run.steps:
        return
    with shown.evaluating():
        loss = run.evaluate()
    shown.evaluation(run.steps, loss)
    _tell_if_stopped(run, shown)


def _tell_if_stopped(run: Run, shown: Progress) -> None:
    if run.finished and run.steps < run.config.iters:
        step, best = run.history.best
        shown.message(
            f"stopped early after step {run.steps}: {run.config.patience} evaluations in a row without a validation "
            f"loss below {best:.3f}, which was reached after step {step}; to continue, resume with a larger patience"
        )


def _sample(run: Run, shown: Progress, sample: Callable[[], str] | None, last: bool = False) -> None:
    """Show a text by the model, every `sample_every` steps and at the end."""
    every = run.config.sample_every or run.config.eval_every
    if sample and not shown.quiet and (last or run.steps % every == 0) and run.steps != shown.sampled:
        run.model.eval()
        with shown.evaluating():
            text = sample()
        shown.sample(run.steps, text)


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets, so that the current step is finished. A second Ctrl-C interrupts immediately."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
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
