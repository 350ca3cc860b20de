"""`minilora generate`."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from minilora.cli import options
from minilora.data.tokenizer import visible
from minilora.generation import Sampler, write_stream


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "generate",
        "write a text, character by character",
        'minilora generate --adapter runs/bard:0.8 --prompt "The king " --tokens 300 --seed 1',
    )
    options.add_model(parser)
    options.add_adapters(parser)
    options.add_device(parser)
    parser.add_argument("--prompt", default="\n", help="the beginning (default: an empty line)")
    parser.add_argument("--tokens", type=int, default=300, metavar="N", help="how many bytes to write (default: 300)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest (default: 0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest")
    parser.add_argument("--top-p", type=float, metavar="P", help="choose among the likeliest that make up P")
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same text (default: 0)")
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    model = options.open_model(flags.model, flags.adapter, flags.device)
    sampler = Sampler(flags.temperature, flags.top_k, flags.top_p)
    pieces = write_stream(model, flags.prompt, flags.tokens, sampler, flags.seed)
    sys.stdout.write(visible(flags.prompt))
    for piece in pieces:
        sys.stdout.write(visible(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
