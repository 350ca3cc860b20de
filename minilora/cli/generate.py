"""`minilora generate`."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from typing import Any

from minilora.cli import options
from minilora.generation import write_stream
from minilora.messages import visible


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "generate",
        "generate text, character by character",
        'minilora generate --voice shakespeare:0.8 --prompt "The king " --tokens 300 --seed 1',
    )
    options.add_model(parser)
    options.add_adapters(parser)
    options.add_device(parser)
    options.add_prompt(parser, "\n")
    options.add_sampling(parser, tokens=300)
    parser.add_argument(
        "--stop",
        metavar="TEXT",
        action="append",
        default=[],
        type=_text,
        help=r"stop before this text, in which \n stands for a newline; can be repeated",
    )
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    model = options.open_model(flags.model, flags.adapter, flags.device)
    prompt = options.prompt(flags)
    pieces = write_stream(model, prompt, flags.tokens, options.sampler(flags), flags.seed, stop=flags.stop)
    sys.stdout.write(visible(prompt))
    for piece in pieces:
        sys.stdout.write(visible(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")


def _text(argument: str) -> str:
    if not argument:
        raise ArgumentTypeError("expected a text to stop at, got an empty string")
    return argument.replace(r"\n", "\n")
