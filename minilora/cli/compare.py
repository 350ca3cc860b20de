"""`minilora compare`: the same prompt and the same dice in several voices, and how each differs from the base."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from typing import Any

from minilora import lora
from minilora.cli import options
from minilora.cli.columns import Column, side_by_side, wants_colour
from minilora.nn import Llama
from minilora.nn.variants import Choice
from minilora.voices import NAMES, Text, compare, voice_folder


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "compare",
        "write one prompt in several voices, with the same random draws",
        'minilora compare --prompt "The king" --voices base,shakespeare,shakespeare:0.5+python:0.5',
    )
    parser.add_argument("--prompt", default="The king", help='the beginning (default: "The king")')
    parser.add_argument(
        "--voices",
        type=_split,
        default=["base", *NAMES],
        metavar="LIST",
        help="with commas between: base, voices, adapter folders, each NAME[:STRENGTH], or mixtures of them with + "
        "(default: base and all voices)",
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
    model = options.open_model(flags.model)
    choices = [_choice(model, voice) for voice in flags.voices]
    sampler = options.sampler(flags)
    texts = compare(flags.prompt, choices, flags.seed, tokens=flags.tokens, sampler=sampler, model=model)
    columns = [
        Column(_title(name, text), _marks(flags.prompt, text)) for name, text in zip(flags.voices, texts, strict=True)
    ]
    print(side_by_side(columns, wants_colour(flags.colour)))


def _split(text: str) -> list[str]:
    return [voice.strip() for voice in text.split(",")]


def _choice(model: Llama, voice: str) -> Choice:
    """`shakespeare:0.5+runs/mine` as strengths of adapters, which are attached to the model unless they are already."""
    if voice == "base":
        return None
    strengths: dict[str, float] = {}
    for part in voice.split("+"):
        path, strength = options.split_strength(part)
        if path not in NAMES and not os.path.isdir(path):
            raise ValueError(f"{path!r} is neither base nor a voice ({', '.join(NAMES)}) nor an adapter folder")
        name = re.sub("[^A-Za-z0-9_-]", "-", path)
        if name not in lora.adapters(model):
            lora.load_adapter(model, voice_folder(path) if path in NAMES else path, name)
        strengths[name] = strengths.get(name, 0.0) + strength
    return strengths


def _title(name: str, text: Text) -> str:
    if not text.strengths:
        return name
    lines = [name, f"style meter {text.meter:+.2f} nats per character"]
    if len(text.strengths) > 1:
        lines.append(", ".join(f"{voice} {meter:+.2f}" for voice, meter in text.meters.items()))
    return "\n".join(lines)


def _marks(prompt: str, text: Text) -> list[tuple[str, float]]:
    return [(prompt, 0.0), *((letter.text, letter.ratio) for letter in text.letters)]
