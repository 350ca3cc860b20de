"""What belongs to one browser alone: the voices that were taught in it, and a model that can speak with them.

The packaged model is shared by all browsers and only ever read. A browser with voices of its own has a model of its
own, which is made anew for each voice that is added: a text that is being written keeps the one that it began with.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from minilora.lora import load_adapter, set_active
from minilora.nn import Llama
from minilora.voices import attach

MOST = 3  # voices of its own that a browser can have


class Session:
    """One browser's part of the app.

    Attributes
    ----------
    root : a temporary folder in which this browser has one of its own, once it needs it
    voices : the voices taught here, by name, each with its adapter's folder
    model : the packaged base with the packaged voices and these, or None while there are none
    stopped : what the person has asked to stop, "writing" or "learning"
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.voices: dict[str, Path] = {}
        self.model: Llama | None = None
        self.stopped: set[str] = set()
        self._folder: Path | None = None

    def folder(self, name: str) -> Path:
        """Where a voice of this name lies, in a folder that `close` removes."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(dir=self.root))
        return self._folder / name

    def refuse_more(self) -> None:
        """Raise ValueError when there is no room for another voice."""
        if len(self.voices) >= MOST:
            raise ValueError(f"This page has room for {MOST} new voices. Download them, then reload the page.")

    def add(self, name: str) -> None:
        """Let the voice whose adapter lies in `folder(name)` speak."""
        self.refuse_more()
        voices, model = {**self.voices, name: self.folder(name)}, attach()
        for own, folder in voices.items():
            load_adapter(model, folder, own)
        set_active(model, None)
        model.eval()
        self.voices, self.model = voices, model

    def close(self) -> None:
        """Forget everything. What is learning here is asked to stop."""
        self.stopped.update(("writing", "learning"))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.voices, self.model, self._folder = {}, None, None
