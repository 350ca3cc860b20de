"""`minilora pretrain`."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from minilora.cli import options, training


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "pretrain",
        "train a model from scratch",
        "minilora pretrain --preset nanogpt-cpu --out runs/nano",
    )
    training.add_flags(parser, "base")
    for flag, what in {
        "layers": "decoder layers",
        "hidden": "hidden size",
        "intermediate": "intermediate size of the MLP",
        "heads": "attention heads",
        "kv-heads": "key/value heads",
    }.items():
        parser.add_argument(f"--{flag}", type=int, metavar="N", help=what)
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    training.train(flags, fresh=True)
