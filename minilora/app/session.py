"""The state of one browser: the voices trained in it, and a model with these voices attached.

The packaged model is shared by all browsers and never modified. A browser with its own voices has its own model, which
is rebuilt whenever a voice is added, so that a text still being generated keeps the model it started with.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from minilora.lora import load_adapter, set_active
from minilora.nn import Llama
from minilora.voices import attach

MOST = 3  # maximum number of voices trained in one browser


class Session:
    """The state of one browser.

    Attributes
    ----------
    root : a temporary folder; a subfolder for this browser is created in it on demand
    voices : adapter folders of the voices trained here, by name
    model : the packaged base with the packaged voices and these voices; None if no voice was trained here
    stopped : the activities that the user has stopped, "writing" or "learning"
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.voices: dict[str, Path] = {}
        self.model: Llama | None = None
        self.stopped: set[str] = set()
        self._folder: Path | None = None

    def folder(self, name: str) -> Path:
        """Return the folder for a voice of this name; `close` removes it."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(dir=self.root))
        return self._folder / name

    def refuse_more(self) -> None:
        """Raise ValueError if the maximum number of voices is reached."""
        if len(self.voices) >= MOST:
            raise ValueError(f"A page can have at most {MOST} new voices. Download them, then reload the page.")

    def add(self, name: str) -> None:
        """Add the voice with the adapter in `folder(name)` to the session."""
        self.refuse_more()
        voices, model = {**self.voices, name: self.folder(name)}, attach()
        for own, folder in voices.items():
            load_adapter(model, folder, own)
        set_active(model, None)
        model.eval()
        self.voices, self.model = voices, model

    def close(self) -> None:
        """Delete all voices, and stop generation and training."""
        self.stopped.update(("writing", "learning"))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.voices, self.model, self._folder = {}, None, None
