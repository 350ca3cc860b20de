"""`minilora pretrain`."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np

from minilora.cli import options, training
from minilora.nn import Llama


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "pretrain",
        "train a model from nothing",
        "minilora pretrain --preset nanogpt-cpu --out runs/nano",
    )
    training.add_flags(parser, "base")
    for flag, what in {
        "layers": "decoder layers",
        "hidden": "width of the model",
        "intermediate": "width inside the MLP",
        "heads": "attention heads",
        "kv-heads": "key/value heads",
    }.items():
        parser.add_argument(f"--{flag}", type=int, metavar="N", help=what)
    parser.set_defaults(run=run, method="full")


def run(flags: Namespace) -> None:
    chosen = training.settings_of(flags)
    model = Llama(chosen.model, np.random.default_rng(chosen.training.seed)).to(flags.device)
    training.train_and_save(model, chosen, flags)
