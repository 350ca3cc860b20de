"""The packaged voices: LoRA adapters for the packaged base model, each with a model card and measured losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilora import lora
from minilora.assets import BASE, VOICES
from minilora.files import read_json
from minilora.nn import Llama

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
    model = Llama.from_pretrained(BASE)
    for name in NAMES:
        lora.load_adapter(model, voice_folder(name), name)
    lora.set_active(model, None)
    model.eval()
    return model
