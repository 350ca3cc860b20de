"""The second tab: train a voice on the user's text in about a minute.

The settings are those of the demo, except that the output head is adapted too. The number of steps that fit into the
time limit is estimated by timing a few steps first. The voice that is kept is the one with the lowest loss on the
held-out tenth of the text, because the model soon overfits a short text.
"""

from __future__ import annotations

import os
import re
import time
import zipfile
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilora import lora
from minilora.backend import Array
from minilora.data import ByteTokenizer, Corpus, CorpusError, load_corpus, split
from minilora.data.local import with_newlines
from minilora.runs import Settings, load_settings, run_steps
from minilora.training import Run

MINUTE = 60.0
LARGEST_FILE = 2 * 1024**2  # bytes
SHORTEST = 1_000  # characters: a tenth is held out, which should be more than a line or two
PRESET = "demo"
EVALUATIONS, WINDOWS = 8, 32
TARGETS = ".*_proj|lm_head"  # including the head: a text may have characters that the base was not trained on
PAUSE = 0.25  # seconds between updates of the plot
PROBE = 4  # steps that are timed before the training starts


@dataclass(frozen=True)
class TrainingText:
    """The training and validation token ids of a text, and the name of the voice to train on it."""

    name: str
    train_ids: Array
    val_ids: Array


@dataclass(frozen=True)
class Progress:
    """Training progress of a voice.

    Attributes
    ----------
    iters : number of training steps
    losses : training loss of each step so far, in nats per byte
    evaluations : held-out losses as (steps done, loss), in nats per byte
    seconds_left : estimated remaining time
    finished : whether training has ended
    """

    iters: int
    losses: list[float]
    evaluations: list[tuple[int, float]]
    seconds_left: float
    finished: bool = False

    @property
    def best(self) -> tuple[int, float]:
        """The step and the loss of the best evaluation after the start, which determines the adapter to keep."""
        return min(self.evaluations[1:], key=lambda pair: pair[1])

    def __str__(self) -> str:
        step, before = len(self.losses), self.evaluations[0][1]
        if self.finished:
            kept, after = self.best
            losses = f"held-out loss {before:.2f} → {after:.2f} nats per byte"
            return f"Trained for {step} steps; kept the state after step {kept}: {losses}."
        recent = f", training loss {np.mean(self.losses[-10:]):.2f}" if self.losses else ""
        return (
            f"Step {step} of {self.iters}{recent}, held-out loss {self.evaluations[-1][1]:.2f}, "
            f"about {self.seconds_left:.0f} s left"
        )


def training_text(name: str | None, pasted: str | None, upload: str | None, taken: Collection[str]) -> TrainingText:
    """Validate the fields of the page and return the TrainingText. Raises ValueError with a message for the user."""
    name = _name((name or "").strip(), taken)
    if pasted and pasted.strip() and upload:
        raise ValueError("You have pasted text and also chosen a file. Clear one of them.")
    text = _checked(_read(Path(upload)) if upload else with_newlines(pasted or ""))
    train, val = split(Corpus(name, (text,)))
    return TrainingText(name, ByteTokenizer().encode(train), ByteTokenizer().encode(val))


def _name(name: str, taken: Collection[str]) -> str:
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_-]{0,19}", name):
        raise ValueError("The name must have 1 to 20 characters: letters, digits, - and _, starting with a letter.")
    if name.lower() in {other.lower() for other in taken} | {"base"}:
        raise ValueError(f"There is already a voice called {name}. Choose another name.")
    return name


def _read(file: Path) -> str:
    """Read an uploaded file. Error messages omit its path on the server, which means nothing to the user."""
    if (size := file.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"The file has {size:,} bytes; the limit is {LARGEST_FILE:,}. Use part of it.")
    try:
        return load_corpus(file).text
    except CorpusError as error:
        reason = "contains JSON records" if "JSON" in str(error) else "is empty, unreadable or not UTF-8 text"
        raise ValueError(f"The file {reason}. Save it as plain text (.txt, UTF-8) and try again.") from None


def _checked(text: str) -> str:
    """Return the text. Raises ValueError if it is too short or too long, or contains NUL bytes."""
    if "\0" in text:
        raise ValueError("The text contains NUL bytes. Use plain text.")
    if (found := len(text.strip())) < SHORTEST:
        raise ValueError(f"A voice needs at least {SHORTEST:,} characters of training text; this text has {found:,}.")
    if (size := len(text.encode(errors="replace"))) > LARGEST_FILE:
        raise ValueError(f"The text has {size:,} bytes; the limit is {LARGEST_FILE:,}. Use part of it.")
    return text


def learn(
    text: TrainingText, folder: Path, seconds: float = MINUTE, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Progress]:
    """Train for about `seconds`, saving the best adapter so far in `folder`; yield Progress objects.

    The last one has finished=True. Training ends early if `stopped` returns True, or once 1.5 times `seconds` have
    passed because the machine is busy. The best adapter up to then is kept.
    """
    began = shown = time.monotonic()
    iters = _steps_in(text, seconds)
    start, every = time.monotonic(), max(1, iters // EVALUATIONS)
    with closing(_steps(text, iters)) as steps:
        for run in steps:
            history, now = run.history, time.monotonic()
            last = run.steps == iters or stopped() or now - began > 1.5 * seconds
            if last or run.steps % every == 0:
                run.evaluate()
                if min(history.evaluations[1:], key=lambda pair: pair[1])[0] == run.steps:
                    lora.save_adapter(run.model, folder, text.name, dtype="float16")
            if last or now - shown > PAUSE:
                left = (now - start) / run.steps * (iters - run.steps)
                yield Progress(iters, history.losses[:], history.evaluations[:], left, finished=last)
                shown = time.monotonic()
            if last:
                return


def _steps(text: TrainingText, iters: int) -> Generator[Run, None, None]:
    return run_steps(settings(text, iters), (text.train_ids, text.val_ids), adapter=text.name)


def settings(text: TrainingText, iters: int) -> Settings:
    """Return the settings of the demo for `iters` steps, with a context that fits the held-out part of the text."""
    demo = load_settings(PRESET).training
    return load_settings(
        PRESET,
        iters=iters,
        context=min(demo.context, len(text.val_ids) - 1),
        eval_every=iters,  # evaluation is left to `learn`
        eval_windows=WINDOWS,
        targets=TARGETS,
    )


def _steps_in(text: TrainingText, seconds: float) -> int:
    """Return the number of steps that fit into the time limit, estimated by timing a few steps."""
    times = [time.monotonic()]
    with closing(_steps(text, PROBE)) as steps:
        for _, _ in zip(range(PROBE), steps, strict=False):
            times.append(time.monotonic())
    step = float(np.median(np.diff(times)))  # median, because the first step is slower than the others
    return max(PROBE, int(0.9 * seconds / step) - PROBE)  # a tenth is reserved for loading and evaluation


def pack(folder: Path) -> Path:
    """Archive the adapter folder, under its own name, as a .zip file next to it; return the path of the archive."""
    archive = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, os.path.join(folder.name, path.name))
    return archive
