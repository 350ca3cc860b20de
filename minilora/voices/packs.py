"""The packaged voices: LoRA adapters for the packaged base model, each with a model card and measured losses.

A packaged voice is given by its name, any other adapter by its folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from minilora import lora
from minilora.adapters.files import packaged_voice
from minilora.assets import BASE as PACKAGED
from minilora.assets import VOICES
from minilora.files import read_json
from minilora.messages import expect
from minilora.nn import Llama, Module
from minilora.nn.choice import Choice

BASE = "base"  # in a list of voices: no adapter
METRICS = "metrics.json"  # the measured losses, in each voice's folder


@dataclass(frozen=True)
class Voice:
    """A packaged voice.

    Attributes
    ----------
    name : the name under which it is attached
    folder : the folder of its adapter, in PEFT's layout, with its model card, README.md
    metrics : `description`; `corpus`; losses on held-out text, in nats per character: `before` and `after` on its own
        corpus, without and with the voice, and likewise `base_off` and `base_on` on the base's corpora; `seconds` of
        training on `machine`; `held_out_sha256`; for the corpus "python", also the Python version, `python`
    """

    name: str
    folder: Path
    metrics: dict[str, Any]

    def __repr__(self) -> str:
        before, after = self.metrics["before"], self.metrics["after"]
        return f"Voice({self.name!r}, {self.metrics['description']}, loss on its own text {before:.3f} → {after:.3f})"


NAMES = "shakespeare", "scripture", "fairytale", "python", "recipe"


def voices() -> list[Voice]:
    """Return the packaged voices, in the order of NAMES."""
    return [Voice(name, VOICES / name, read_json(VOICES / name / METRICS)) for name in NAMES]


def voice_folder(name: str) -> Path:
    """Return the adapter folder of a voice. Raises ValueError for an unknown name; the message lists the voices."""
    if name not in NAMES:
        raise ValueError(f"unknown voice {name!r}; available voices: {', '.join(NAMES)}")
    return VOICES / name


def attach() -> Llama:
    """Return the packaged base with all voices attached, none of them active."""
    model = Llama.from_pretrained(PACKAGED)
    for name in NAMES:
        lora.load_adapter(model, voice_folder(name), name)
    lora.set_active(model, None)
    model.eval()
    return model


def names_in(voices: Sequence[Choice]) -> list[str]:
    """Return the distinct names and folders in a list of voices, in order and without the base."""
    for voice in voices:
        expect(voice, str | Mapping | None, "the name of a voice, a dict of strengths, or None for the base")
    names = (name for voice in voices for name in (voice if isinstance(voice, Mapping) else [voice]))
    return list(dict.fromkeys(name for name in names if name not in (None, BASE)))


def load_named(model: Module, voices: Sequence[Choice]) -> list[Choice]:
    """Attach the voices and adapter folders that `voices` names, none of them active.

    Returns `voices` with each folder replaced by the name of its adapter: the last part of its path, with a number if
    that is taken.
    """
    names = {name: _load(model, name) for name in names_in(voices)}
    lora.set_active(model, None)
    return [
        {names[name]: s for name, s in v.items()} if isinstance(v, Mapping) else names.get(str(v), v) for v in voices
    ]


def _load(model: Module, name: str) -> str:
    if packaged_voice(name):
        lora.load_adapter(model, name)
        return name
    stem = re.sub("[^A-Za-z0-9_-]", "_", Path(name).resolve().name) or "adapter"
    taken = {BASE, *NAMES, *model.adapters}
    free = next(n for n in chain([stem], (f"{stem}_{i}" for i in count(2))) if n not in taken)
    lora.load_adapter(model, name, free)
    return free
