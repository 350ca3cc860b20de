"""The voices that the package carries: LoRA adapters for its base model, each with a card and its measured losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilora import lora
from minilora.assets import BASE, VOICES
from minilora.files import read_json
from minilora.nn import Llama

METRICS = "metrics.json"  # in each voice's folder: what was measured


@dataclass(frozen=True)
class Voice:
    """A packaged voice.

    Attributes
    ----------
    name : under which it is attached
    folder : where its adapter lies, in PEFT's layout, with its card, README.md
    metrics : `description`; `corpus`; losses on held-out text, in nats per character: `before` and `after` on its own
        corpus, without and with the voice, `base_off` and `base_on` likewise on the base's; `seconds` of training on
        `machine`; `held_out_sha256`, and for the corpus python its version, `python`
    """

    name: str
    folder: Path
    metrics: dict[str, Any]


NAMES = "shakespeare", "scripture", "fairytale", "python", "recipe"


def voices() -> list[Voice]:
    """The packaged voices, in the order of NAMES."""
    return [Voice(name, VOICES / name, read_json(VOICES / name / METRICS)) for name in NAMES]


def voice_folder(name: str) -> Path:
    """The adapter's folder of a voice. Raises ValueError, listing what there is, for an unknown name."""
    if name not in NAMES:
        raise ValueError(f"there is no voice {name!r}; there are {', '.join(NAMES)}")
    return VOICES / name


def attach() -> Llama:
    """The packaged base with all voices attached; none acts."""
    model = Llama.from_pretrained(BASE)
    for name in NAMES:
        lora.load_adapter(model, voice_folder(name), name)
    lora.set_active(model, None)
    model.eval()
    return model
