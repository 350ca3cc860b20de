"""The second tab: train a voice on the user's text in about a minute.

The settings are the demo's, except that the head is adapted too. How many steps fit into the time is found by timing a
few first; the voice that is kept is the one whose loss on the held-out tenth of the text was lowest, since a short text
is soon known by heart.
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
from minilora.data.corpora import to_ascii
from minilora.runs import Settings, load_settings, run_steps
from minilora.training import Run

MINUTE = 60.0
LARGEST_FILE = 2 * 1024**2  # bytes
SHORTEST = 1_000  # characters: a tenth is held out, and should be more than a line or two
PRESET = "demo"
EVALUATIONS, WINDOWS = 8, 32
TARGETS = ".*_proj|lm_head"  # the head too: a text may have characters that the base has never seen
PAUSE = 0.25  # seconds between two pictures of the curve
PROBE = 4  # steps that are timed before the real ones


@dataclass(frozen=True)
class Lesson:
    """A named text as token ids, for training and for validation."""

    name: str
    train_ids: Array
    val_ids: Array


@dataclass(frozen=True)
class Progress:
    """How far a voice has come: the losses of its steps, and of evaluations as (steps done, loss), in nats."""

    iters: int
    losses: list[float]
    evaluations: list[tuple[int, float]]
    seconds_left: float
    finished: bool = False

    @property
    def best(self) -> tuple[int, float]:
        """Of the evaluations after the first step the one that is kept: its step and its loss."""
        return min(self.evaluations[1:], key=lambda pair: pair[1])

    def __str__(self) -> str:
        step, before = len(self.losses), self.evaluations[0][1]
        if self.finished:
            kept, after = self.best
            losses = f"held-out loss {before:.2f} → {after:.2f} nats per character"
            return f"Learned in {step} steps, kept as it was after step {kept}: {losses}."
        recent = f", training loss {np.mean(self.losses[-10:]):.2f}" if self.losses else ""
        return (
            f"Step {step} of {self.iters}{recent}, held-out loss {self.evaluations[-1][1]:.2f}, "
            f"about {self.seconds_left:.0f} s left"
        )


def lesson(name: str | None, pasted: str | None, upload: str | None, taken: Collection[str]) -> Lesson:
    """What the page's fields ask for. Raises ValueError, in a sentence for the page, for what cannot be learned."""
    name = _name((name or "").strip(), taken)
    if pasted and pasted.strip() and upload:
        raise ValueError("There is a pasted text and a file. Clear one of them.")
    text = _ascii(_read(Path(upload)) if upload else pasted or "")
    train, val = split(Corpus(name, (text,)))
    return Lesson(name, ByteTokenizer().encode(train), ByteTokenizer().encode(val))


def _name(name: str, taken: Collection[str]) -> str:
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_-]{0,19}", name):
        raise ValueError("Give the voice a name of at most 20 letters, digits, - and _, with a letter first.")
    if name.lower() in {other.lower() for other in taken} | {"base"}:
        raise ValueError(f"There is already a voice called {name}. Choose another name.")
    return name


def _read(file: Path) -> str:
    """An uploaded file's text. The server's name for it means nothing to the person, so no message has it."""
    if (size := file.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"The file has {size:,} bytes, and may have at most {LARGEST_FILE:,}. Cut out a part of it.")
    try:
        return load_corpus(file, ascii=False).text
    except CorpusError:
        raise ValueError("The file holds no text. Save it as plain text (.txt, UTF-8) and try again.") from None


def _ascii(text: str) -> str:
    """The text as the base knows letters. Raises ValueError when it is too short or too long, or little is left."""
    folded = to_ascii(text)
    if 2 * len(folded) < len(text):
        raise ValueError("Most of this text is in letters that the base has never seen: it knows those of English.")
    if "\0" in folded:
        raise ValueError("This is not a text: it holds NUL bytes. Paste plain text.")
    if len(folded.strip()) < SHORTEST:
        found = len(folded.strip())
        raise ValueError(f"A voice needs at least {SHORTEST:,} characters to learn from; this text has {found:,}.")
    if len(folded) > LARGEST_FILE:
        raise ValueError(f"The text has {len(folded):,} characters, and may have at most {LARGEST_FILE:,}.")
    return folded


def learn(
    lesson: Lesson, folder: Path, seconds: float = MINUTE, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Progress]:
    """Train for about `seconds`, saving the best adapter so far in `folder`; yields how far it is, the last finished.

    When `stopped`, or when the machine turns out to be so busy that half as much time again has passed, it ends with
    what it has learned by then.
    """
    began = shown = time.monotonic()
    iters = _steps_in(lesson, seconds)
    start, every = time.monotonic(), max(1, iters // EVALUATIONS)
    with closing(_steps(lesson, iters)) as steps:
        for run in steps:
            history, now = run.history, time.monotonic()
            last = run.steps == iters or stopped() or now - began > 1.5 * seconds
            if last or run.steps % every == 0:
                run.evaluate()
                if min(history.evaluations[1:], key=lambda pair: pair[1])[0] == run.steps:
                    lora.save_adapter(run.model, folder, lesson.name, dtype="float16")
            if last or now - shown > PAUSE:
                left = (now - start) / run.steps * (iters - run.steps)
                yield Progress(iters, history.losses[:], history.evaluations[:], left, finished=last)
                shown = time.monotonic()
            if last:
                return


def _steps(lesson: Lesson, iters: int) -> Generator[Run, None, None]:
    return run_steps(settings(lesson, iters), (lesson.train_ids, lesson.val_ids), adapter=lesson.name)


def settings(lesson: Lesson, iters: int) -> Settings:
    """The demo's settings for `iters` steps, with a context that fits the held-out part."""
    demo = load_settings(PRESET).training
    return load_settings(
        PRESET,
        iters=iters,
        context=min(demo.context, len(lesson.val_ids) - 1),
        warmup=min(demo.warmup, iters // 5),
        eval_every=iters,  # `learn` evaluates
        eval_windows=WINDOWS,
        targets=TARGETS,
    )


def _steps_in(lesson: Lesson, seconds: float) -> int:
    """How many steps fit into the time, found by timing a few."""
    times = [time.monotonic()]
    with closing(_steps(lesson, PROBE)) as steps:
        for _, _ in zip(range(PROBE), steps, strict=False):
            times.append(time.monotonic())
    step = float(np.median(np.diff(times)))  # the first is slower than those to come
    return max(PROBE, int(0.9 * seconds / step) - PROBE)  # a tenth is for loading and evaluating


def pack(folder: Path) -> Path:
    """The adapter's folder as a .zip beside it, with the folder's name in it."""
    archive = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, os.path.join(folder.name, path.name))
    return archive
