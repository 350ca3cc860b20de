"""Flags that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
import math
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from minilora import lora
from minilora.backend import DEVICES
from minilora.generation import Sampler
from minilora.nn import Llama
from minilora.runs import open_base
from minilora.voices import voice_folder


def command(commands: Any, name: str, help: str, example: str) -> ArgumentParser:
    """A new command with a help text that ends in an example."""
    return commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model(parser: ArgumentParser) -> None:
    parser.add_argument("--model", metavar="FOLDER", help="a model folder (default: the packaged base model)")


def add_adapters(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--adapter",
        metavar="FOLDER[:STRENGTH]",
        action="append",
        default=[],
        help="an adapter to attach, with a strength (1 if not given); repeat it for several",
    )
    parser.add_argument(
        "--voice",
        metavar="NAME[:STRENGTH]",
        action="append",
        dest="adapter",
        type=_voice,
        help="a voice that the package carries, likewise; `minilora voices` lists them",
    )


def add_sampling(parser: ArgumentParser, tokens: int) -> None:
    """How a text is written; `sampler` makes use of it."""
    parser.add_argument("--tokens", type=int, default=tokens, metavar="N", help=f"bytes to write (default: {tokens})")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="higher is more varied, 0 takes the likeliest (default: 0.8)"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest")
    parser.add_argument("--top-p", type=float, metavar="P", help="choose among the likeliest that make up P")
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="the same seed writes the same text (default: 0)"
    )


def sampler(flags: Namespace) -> Sampler:
    """The sampler that the flags of `add_sampling` ask for."""
    return Sampler(flags.temperature, flags.top_k, flags.top_p)


def _voice(argument: str) -> str:
    """`python:0.4` as an adapter: its folder, and the strength."""
    name, colon, strength = argument.partition(":")
    try:
        folder = voice_folder(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if colon and not _is_number(strength):
        raise argparse.ArgumentTypeError(
            f"expected a voice as NAME or NAME:STRENGTH, such as {name}:0.5, got {argument!r}"
        )
    return f"{folder}{colon}{strength}"


def add_device(parser: ArgumentParser) -> None:
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where to compute; cuda is a GPU, by CuPy")


def add_threads(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=_at_least_one,
        metavar="N",
        help="cores to compute on (default: all; a batch keeps at most 8 busy); any number gives the same bits",
    )


def _seed(text: str) -> int:
    if not re.fullmatch("[0-9]{1,30}", text):
        raise argparse.ArgumentTypeError(
            f"expected a whole number of 0 or more, of at most 30 digits, got {text[:20]!r}"
        )
    return int(text)


def _at_least_one(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text[:20]!r}")
    return int(text)


def open_model(folder: str | None, adapters: list[str] | None = None, device: str = "cpu") -> Llama:
    """The model of a folder, or the packaged one, with adapters attached and acting, on `device`."""
    model, strengths = open_base(folder, device), {}
    for i, argument in enumerate(adapters or []):
        path, strength = split_strength(argument)
        name = f"adapter{i + 1}"
        lora.load_adapter(model, path, name)
        strengths[name] = strength
    if strengths:
        lora.set_active(model, strengths)
    return model


def split_strength(argument: str) -> tuple[str, float]:
    """`runs/bard:0.7` -> ("runs/bard", 0.7); without a colon, or if there is such a folder, the strength is 1.

    Raises ValueError when what follows the last colon is no finite number.
    """
    path, colon, number = argument.rpartition(":")
    if not (colon and path) or Path(argument).is_dir():
        return argument, 1.0
    if not _is_number(number):
        raise ValueError(f"expected an adapter as FOLDER or FOLDER:STRENGTH, such as {path}:0.5, got {argument!r}")
    return path, float(number)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
