"""Flags shared by several commands, and functions that interpret them."""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sys
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minilora import lora
from minilora.backend import DEVICES
from minilora.generation import Sampler
from minilora.nn import Llama
from minilora.runs import open_base


def command(commands: Any, name: str, help: str, example: str) -> ArgumentParser:
    """Add a command whose help ends with an example; return its parser."""
    return commands.add_parser(
        name,
        help=help,
        description=textwrap.fill(f"{help[0].upper()}{help[1:]}.", max(20, shutil.get_terminal_size().columns - 2)),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="FOLDER",
        help="model folder (default: the base recorded by the adapter, otherwise the packaged base)",
    )


def add_corpus(parser: ArgumentParser, default: Sequence[str] = ()) -> None:
    """Add the flags that select texts; without a default, --corpus is required."""
    usual = f" (default: {' '.join(default)})" if default else ""
    parser.add_argument(
        "--corpus", nargs="+", required=not default, metavar="NAME", help=f"corpus names or text files{usual}"
    )
    parser.add_argument("--ascii", action="store_true", default=None, help="convert text files to ASCII")
    parser.add_argument("--encoding", metavar="NAME", help="encoding of text files, such as cp1252 (default: UTF-8)")


def add_adapters(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--adapter",
        "--voice",
        metavar="NAME[:STRENGTH]",
        action="append",
        default=[],
        help="adapter folder or packaged voice to attach, with an optional strength (default: 1); can be repeated; "
        "`minilora voices` lists the voices",
    )


def add_prompt(parser: ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--prompt",
        default=default,
        metavar="TEXT",
        help=f"start of the text, or - to read it from standard input (default: {json.dumps(default)})",
    )


def prompt(flags: Namespace) -> str:
    """Return the prompt given with --prompt, or the text of standard input if it is `-`."""
    given: str = flags.prompt
    if given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected standard input to be UTF-8, got an invalid byte at position {error.start}; convert the text"
        ) from None


def add_sampling(parser: ArgumentParser, tokens: int) -> None:
    """Add the flags for generating text; `sampler` reads them."""
    parser.add_argument(
        "--tokens", type=int, default=tokens, metavar="N", help=f"tokens (bytes) to generate (default: {tokens})"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="higher is more varied; 0 always picks the most likely token (default: 0.8)",
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="sample from the K most likely tokens")
    parser.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="sample from the smallest set of tokens with a total probability of at least P",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="random seed; the same seed generates the same text (default: 0)",
    )


def sampler(flags: Namespace) -> Sampler:
    """Return the Sampler selected by the flags of `add_sampling`."""
    return Sampler(flags.temperature, flags.top_k, flags.top_p)


def add_device(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=DEVICES, default="cpu", help="cuda runs on an NVIDIA GPU and needs CuPy (default: cpu)"
    )


def add_threads(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=_at_least_one,
        metavar="N",
        help="number of threads (default: one per core; a batch uses at most 8); "
        "the results are bitwise identical for any number",
    )


def _seed(text: str) -> int:
    if not re.fullmatch("[0-9]{1,30}", text):
        raise argparse.ArgumentTypeError(f"expected a non-negative integer of at most 30 digits, got {text[:20]!r}")
    return int(text)


def _at_least_one(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text[:20]!r}")
    return int(text)


def open_model(folder: str | None, adapters: list[str] | None = None, device: str = "cpu") -> Llama:
    """Load the model from a folder, or the packaged one, on `device`, with the adapters attached and active."""
    found = [split_strength(argument) for argument in adapters or []]
    model, strengths = open_base(folder or lora.find_base(*(path for path, _ in found)), device), {}
    for i, (path, strength) in enumerate(found):
        name = f"adapter{i + 1}"
        lora.load_adapter(model, path, name)
        strengths[name] = strength
    if strengths:
        lora.set_active(model, strengths)
    return model


def split_strength(argument: str) -> tuple[str, float]:
    r"""Split `runs/bard:0.7` into ("runs/bard", 0.7), and `C:\runs\bard` into itself and 1.

    The strength is 1 if there is no colon, if the entire argument is an existing folder, or if a path separator follows
    the last colon. Raises ValueError if any other text after it is not a finite number.
    """
    if not argument:
        raise ValueError("expected an adapter or voice as NAME or NAME:STRENGTH, got an empty name")
    path, colon, number = argument.rpartition(":")
    if not (colon and path) or Path(argument).is_dir() or set(number) & {"/", "\\"}:
        return argument, 1.0
    if not _is_number(number):
        raise ValueError(f"expected an adapter or voice as NAME or NAME:STRENGTH, such as {path}:0.5, got {argument!r}")
    return path, float(number)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
