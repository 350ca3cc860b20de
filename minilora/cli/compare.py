"""`minilora compare`: continue one prompt in several voices with the same seed, and compare each to the base."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minilora import lora
from minilora.cli import options
from minilora.cli.columns import Column, side_by_side, wants_color
from minilora.nn.choice import Choice
from minilora.runs import open_base
from minilora.voices import BASE, NAMES, ComparedText, compare, load_named, names_in


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "compare",
        "continue one prompt in several voices with the same seed, and mark differences from the base",
        'minilora compare --prompt "The king" --voices base,shakespeare,shakespeare:0.5+python:0.5',
    )
    options.add_prompt(parser, "The king ")
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
    asked = [_choice(voice) for voice in flags.voices]
    model = open_base(flags.model or lora.find_base(*names_in(asked)))
    choices = load_named(model, asked)
    given = dict(zip(names_in(choices), names_in(asked), strict=True))
    sampler, prompt = options.sampler(flags), options.prompt(flags)
    texts = compare(prompt, choices, flags.seed, tokens=flags.tokens, sampler=sampler, model=model)
    columns = [
        Column("\n".join(_title(name, text, given)), _marks(prompt, text))
        for name, text in zip(flags.voices, texts, strict=True)
    ]
    print(side_by_side(columns, wants_color(flags.color)))


def _split(text: str) -> list[str]:
    return [text] if Path(text).is_dir() else [voice.strip() for voice in text.split(",")]


def _choice(voice: str) -> Choice:
    """Convert `shakespeare:0.5+runs/mine` to strengths by voice or folder, and `base` to None."""
    if voice == BASE:
        return None
    strengths: dict[str, float] = {}
    for part in [voice] if Path(voice).is_dir() else voice.split("+"):
        name, strength = options.split_strength(part.strip())
        if name == BASE:
            raise ValueError("'base' is the model without a voice; it has no strength and cannot be mixed")
        strengths[name] = strengths.get(name, 0.0) + strength
    return strengths


def _title(name: str, text: ComparedText, given: dict[str, str]) -> Iterator[str]:
    yield name
    if text.strengths:
        yield f"style meter {_signed(text.meter)} nats per character"
    if len(text.strengths) > 1:
        yield ", ".join(f"{given[voice]} {_signed(meter)}" for voice, meter in text.meters.items())


def _signed(meter: float) -> str:
    return f"{round(meter, 2) + 0.0:+.2f}"  # + 0.0 turns -0.0 into 0.0


def _marks(prompt: str, text: ComparedText) -> list[tuple[str, float]]:
    return [(prompt, 0.0), *text.characters]
