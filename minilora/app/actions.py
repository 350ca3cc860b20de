"""What the page's buttons do. Each handler takes the values of the page's fields and yields what to show.

None of this knows Gradio. What cannot be done is a ValueError with a sentence for the person.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from minilora.app import charts, colours, learning, looking, writing
from minilora.app.learning import Progress
from minilora.app.session import Session
from minilora.nn import Llama
from minilora.voices import voices


@dataclass(frozen=True)
class Actions:
    """The handlers.

    Attributes
    ----------
    model : the packaged base with the packaged voices, shared by every browser and only read
    seconds : how long a voice may learn
    """

    model: Llama
    seconds: float = learning.MINUTE

    def write(
        self, session: Session, prompt: str, temperature: float, seed: float, tokens: float, *strengths: float
    ) -> Iterator[tuple[str, str, str, str]]:
        """The status, the texts, the meters and what the last character could have been, as both texts grow."""
        known = names(session)
        if any(strengths[len(known) :]):  # the last sliders are hidden, and 0, until there are voices for them
            raise ValueError("A voice that was taught here is gone: the app has been started anew. Reload the page.")
        wish = writing.wish(prompt, dict(zip(known, strengths, strict=False)), temperature, seed, tokens)
        session.stopped.discard("writing")
        for base, mixed in writing.write(session.model or self.model, wish, lambda: "writing" in session.stopped):
            status = f"{len(mixed.letters)} of {wish.tokens} characters, seed {wish.seed}"
            yield status, colours.texts(wish, base, mixed), charts.meter(mixed), charts.next_characters(mixed)

    def check(self, session: Session, name: str, text: str, upload: str | None) -> Iterator[str]:
        """What is wrong with a text is said before it waits for its turn."""
        session.refuse_more()
        learning.lesson(name, text, upload, names(session))
        session.stopped.discard("learning")
        yield "Waiting for its turn: one voice learns at a time."

    def learn(
        self, session: Session, name: str, text: str, upload: str | None
    ) -> Iterator[tuple[str, Progress | None]]:
        """The status and how far it is, as a voice learns; at the end it is one of the session's."""
        session.refuse_more()
        lesson = learning.lesson(name, text, upload, names(session))
        if "learning" in session.stopped:
            raise ValueError("Stopped before it began.")
        folder = session.folder(lesson.name)
        yield "Measuring how many steps fit into the time.", None
        for progress in learning.learn(lesson, folder, self.seconds, lambda: "learning" in session.stopped):
            if progress.finished:
                session.add(lesson.name)
            hint = f" {escape(lesson.name)} has a slider under Write now." if progress.finished else ""
            yield f"{progress}{hint}", progress


def stop_writing(session: Session) -> None:
    session.stopped.add("writing")


def stop_learning(session: Session) -> None:
    session.stopped.add("learning")


def names(session: Session) -> list[str]:
    """The voices that this browser has, in the order of the sliders."""
    return [voice.name for voice in voices()] + list(session.voices)


def parameters(session: Session, name: str) -> str:
    """The table of parameters of a voice."""
    return looking.parameters(_folder(session, name))


def merging(session: Session, name: str) -> str:
    """What merging a voice changes."""
    return looking.merging(_folder(session, name))


def _folder(session: Session, name: str) -> Path:
    """Where the adapter of a voice lies, this browser's own or the package's."""
    folders = {voice.name: voice.folder for voice in voices()} | session.voices
    if name not in folders:
        raise ValueError(f"There is no voice called {name} here any more. Reload the page.")
    return folders[name]
