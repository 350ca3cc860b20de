"""`minilora compare`: continue one prompt in several voices with the same seed, and compare each to the base."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from minilora import lora
from minilora.cli import options
from minilora.cli.columns import Column, side_by_side, wants_color
from minilora.nn import Llama
from minilora.nn.choice import Choice
from minilora.voices import BASE, NAMES, ComparedText, compare, voice_folder


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "compare",
        "continue one prompt in several voices with the same seed, and mark differences from the base",
        'minilora compare --prompt "The king" --voices base,shakespeare,shakespeare:0.5+python:0.5',
    )
    parser.add_argument("--prompt", default="The king ", help='start of each text (default: "The king ")')
    parser.add_argument(
        "--voices",
        type=_split,
        default=["base", *NAMES],
        metavar="LIST",
        help="comma-separated list, where each item is base, a voice or adapter folder as NAME[:STRENGTH], or a "
        "mixture of these joined by + (default: base and all voices)",
    )
    options.add_model(parser)
    options.add_sampling(parser, tokens=200)
    parser.add_argument(
        "--color",
        "--colour",
        choices=["auto", "always", "never"],
        default="auto",
        help="mark characters that are more likely (orange) or less likely (blue) with the voice than with the base "
        "(default: auto, only on a terminal)",
    )
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    model, adapters = options.open_model(flags.model), Adapters()
    choices = [adapters.choice(model, voice) for voice in flags.voices]
    sampler = options.sampler(flags)
    texts = compare(flags.prompt, choices, flags.seed, tokens=flags.tokens, sampler=sampler, model=model)
    columns = [
        Column("\n".join(_title(name, text, adapters)), _marks(flags.prompt, text))
        for name, text in zip(flags.voices, texts, strict=True)
    ]
    print(side_by_side(columns, wants_color(flags.color)))


def _split(text: str) -> list[str]:
    return [voice.strip() for voice in text.split(",")]


class Adapters(dict[str, str]):
    """The attached adapters: maps the name of each to the voice or folder given on the command line."""

    def choice(self, model: Llama, voice: str) -> Choice:
        """Convert `shakespeare:0.5+runs/mine` to strengths by adapter name, and `base` to None.

        Adapters that are not attached to `model` yet are loaded.
        """
        if voice == BASE:
            return None
        strengths: dict[str, float] = {}
        for part in voice.split("+"):
            called, strength = options.split_strength(part.strip())
            name = self._attached(model, called)
            strengths[name] = strengths.get(name, 0.0) + strength
        return strengths

    def _attached(self, model: Llama, called: str) -> str:
        for name, known in self.items():
            if known == called:
                return name
        if called == BASE:
            raise ValueError("'base' is the model without a voice; it has no strength and cannot be mixed")
        if called not in NAMES and not os.path.isdir(called):
            raise ValueError(
                f"unknown voice {called!r}; expected 'base', a voice ({', '.join(NAMES)}) or an adapter folder"
            )
        name = called if called in NAMES else f"adapter{len(self) + 1}"
        lora.load_adapter(model, voice_folder(called) if called in NAMES else called, name)
        self[name] = called
        return name


def _title(name: str, text: ComparedText, adapters: Adapters) -> Iterator[str]:
    yield name
    if text.strengths:
        yield f"style meter {_signed(text.meter)} nats per character"
    if len(text.strengths) > 1:
        yield ", ".join(f"{adapters[voice]} {_signed(meter)}" for voice, meter in text.meters.items())


def _signed(meter: float) -> str:
    return f"{round(meter, 2) + 0.0:+.2f}"  # + 0.0 turns -0.0 into 0.0


def _marks(prompt: str, text: ComparedText) -> list[tuple[str, float]]:
    return [(prompt, 0.0), *text.characters]
