"""`minilora generate`."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from minilora.cli import options
from minilora.generation import write_stream
from minilora.messages import visible


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "generate",
        "write a text, character by character",
        'minilora generate --voice shakespeare:0.8 --prompt "The king " --tokens 300 --seed 1',
    )
    options.add_model(parser)
    options.add_adapters(parser)
    options.add_device(parser)
    parser.add_argument("--prompt", default="\n", help="the beginning (default: an empty line)")
    options.add_sampling(parser, tokens=300)
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    model = options.open_model(flags.model, flags.adapter, flags.device)
    pieces = write_stream(model, flags.prompt, flags.tokens, options.sampler(flags), flags.seed)
    sys.stdout.write(visible(flags.prompt))
    for piece in pieces:
        sys.stdout.write(visible(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
