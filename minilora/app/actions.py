"""The handlers of the page's buttons: each accepts the values of the fields and yields or returns what to display.

This module does not depend on Gradio. Invalid input raises ValueError with a message for the user.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from minilora.app import charts, colors, learning, looking, writing
from minilora.app.learning import Progress
from minilora.app.session import Session
from minilora.nn import Llama
from minilora.voices import voices


@dataclass(frozen=True)
class Actions:
    """The handlers for generating and training.

    Attributes
    ----------
    model : the packaged base with the packaged voices, shared by all browsers and never modified
    seconds : training time of a voice
    """

    model: Llama
    seconds: float = learning.MINUTE

    def write(
        self, session: Session, prompt: str, temperature: float, seed: float, tokens: float, *strengths: float
    ) -> Iterator[tuple[str, str, str, str]]:
        """Generate one text with the base and one with the voices.

        Yields the status, the texts, the meters and the next-character table as the texts grow.
        """
        known = names(session)
        if any(strengths[len(known) :]):  # the sliders without a voice are hidden and at 0
            raise ValueError("A voice trained on this page is gone because the app was restarted. Reload the page.")
        request = writing.page_request(prompt, dict(zip(known, strengths, strict=False)), temperature, seed, tokens)
        session.stopped.discard("writing")
        for base, mixed in writing.write(session.model or self.model, request, lambda: "writing" in session.stopped):
            status = f"{len(mixed.tokens)} of {request.tokens} characters, seed {request.seed}"
            yield status, colors.texts(request, base, mixed), charts.meter(mixed), charts.next_characters(mixed)

    def check(self, session: Session, name: str, text: str, upload: str | None) -> Iterator[str]:
        """Validate the fields before the training is queued; yield the status to show while the training waits."""
        session.refuse_more()
        learning.training_text(name, text, upload, names(session))
        session.stopped.discard("learning")
        yield "Waiting in the queue: one voice is trained at a time."

    def learn(
        self, session: Session, name: str, text: str, upload: str | None
    ) -> Iterator[tuple[str, Progress | None]]:
        """Train a voice and add it to the session; yield the status and the progress."""
        session.refuse_more()
        data = learning.training_text(name, text, upload, names(session))
        if "learning" in session.stopped:
            raise ValueError("Training was stopped before it started.")
        folder = session.folder(data.name)
        yield "Measuring how many training steps fit within the time limit.", None
        for progress in learning.learn(data, folder, self.seconds, lambda: "learning" in session.stopped):
            if progress.finished:
                session.add(data.name)
            hint = f" {escape(data.name)} now has a slider on the Generate tab." if progress.finished else ""
            yield f"{progress}{hint}", progress


def stop_writing(session: Session) -> None:
    session.stopped.add("writing")


def stop_learning(session: Session) -> None:
    session.stopped.add("learning")


def names(session: Session) -> list[str]:
    """Return the names of the voices available in this browser, in the order of the sliders."""
    return [voice.name for voice in voices()] + list(session.voices)


def parameters(session: Session, name: str) -> str:
    """Return the parameter table of a voice, as HTML."""
    return looking.parameters(_folder(session, name))


def merging(session: Session, name: str) -> str:
    """Return the results of checking the merge of a voice, as HTML."""
    return looking.merging(_folder(session, name))


def _folder(session: Session, name: str) -> Path:
    """Return the adapter folder of a voice, packaged or trained in this browser."""
    folders = {voice.name: voice.folder for voice in voices()} | session.voices
    if name not in folders:
        raise ValueError(f"The voice {name} no longer exists. Reload the page.")
    return folders[name]
