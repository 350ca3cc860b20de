"""`minilora pretrain`."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from minilora.cli import options, training
from minilora.runs import load_settings
from minilora.runs.settings import CHANGEABLE


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "pretrain",
        "train a model from scratch",
        "minilora pretrain --preset nanogpt-cpu --out runs/nano",
    )
    training.add_flags(parser, "base")
    shape = load_settings("base").model
    for flag, what in {
        "layers": "decoder layers",
        "hidden": "hidden size",
        "intermediate": "intermediate size of the MLP",
        "heads": "attention heads",
        "kv-heads": "key/value heads",
    }.items():
        default = getattr(shape, CHANGEABLE[flag.replace("-", "_")][1])
        parser.add_argument(f"--{flag}", type=int, metavar="N", help=f"{what} (default: {default})")
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    training.train(flags, fresh=True)
