"""`minilora compare`: the same prompt and the same dice in several voices, and how each differs from the base."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from minilora import lora
from minilora.cli import options
from minilora.cli.columns import Column, side_by_side, wants_colour
from minilora.nn import Llama
from minilora.nn.choice import Choice
from minilora.voices import BASE, NAMES, Text, compare, voice_folder


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "compare",
        "write one prompt in several voices, with the same random draws",
        'minilora compare --prompt "The king" --voices base,shakespeare,shakespeare:0.5+python:0.5',
    )
    parser.add_argument("--prompt", default="The king ", help='the beginning (default: "The king ")')
    parser.add_argument(
        "--voices",
        type=_split,
        default=["base", *NAMES],
        metavar="LIST",
        help="what to compare, with commas between: base, or a voice or an adapter folder as NAME[:STRENGTH], or "
        "several of these with + between, which are mixed (default: base and all voices)",
    )
    options.add_model(parser)
    options.add_sampling(parser, tokens=200)
    parser.add_argument(
        "--colour",
        "--color",
        choices=["auto", "always", "never"],
        default="auto",
        help="mark the characters that the voice expected more (orange) or less (blue) than the base",
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
    print(side_by_side(columns, wants_colour(flags.colour)))


def _split(text: str) -> list[str]:
    return [voice.strip() for voice in text.split(",")]


class Adapters(dict[str, str]):
    """The adapters that are attached: the name of each, and what the person calls it, a voice or a folder."""

    def choice(self, model: Llama, voice: str) -> Choice:
        """`shakespeare:0.5+runs/mine` as strengths of adapters; those that are not attached yet are, to `model`."""
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
            raise ValueError("base is the model without a voice: it takes no strength, and is not mixed")
        if called not in NAMES and not os.path.isdir(called):
            raise ValueError(f"{called!r} is neither base nor a voice ({', '.join(NAMES)}) nor an adapter folder")
        name = called if called in NAMES else f"adapter{len(self) + 1}"
        lora.load_adapter(model, voice_folder(called) if called in NAMES else called, name)
        self[name] = called
        return name


def _title(name: str, text: Text, adapters: Adapters) -> Iterator[str]:
    yield name
    if text.strengths:
        yield f"style meter {_signed(text.meter)} nats per character"
    if len(text.strengths) > 1:
        yield ", ".join(f"{adapters[voice]} {_signed(meter)}" for voice, meter in text.meters.items())


def _signed(meter: float) -> str:
    return f"{round(meter, 2) + 0.0:+.2f}"  # + 0.0: what rounds to zero has no minus


def _marks(prompt: str, text: Text) -> list[tuple[str, float]]:
    return [(prompt, 0.0), *text.characters]
