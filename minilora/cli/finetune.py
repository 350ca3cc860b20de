"""`minilora finetune`."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from minilora.adapters.method import methods
from minilora.cli import options, training


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "finetune",
        "adapt a model to a text, with LoRA or in full",
        "minilora finetune --corpus tinyshakespeare --rank 8 --out runs/bard",
    )
    options.add_model(parser)
    training.add_flags(parser, "demo")
    parser.add_argument("--method", choices=[*methods(), "full"], help="train an adapter of this kind, or all weights")
    parser.add_argument("--rank", type=int, metavar="R", help="rank of the adapter, r")
    parser.add_argument("--alpha", type=float, metavar="A", help="its α (default: α/r as in the preset)")
    parser.add_argument("--dropout", type=float, metavar="P", help="dropout on the adapter's input")
    parser.add_argument(
        "--targets",
        type=_targets,
        metavar="NAMES",
        help="which Linears: names with commas between, a regular expression, or all-linear",
    )
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    training.train(flags, fresh=False)


def _targets(text: str) -> list[str] | str:
    """Names with commas between, or, if it looks like one, a regular expression."""
    return text if text == "all-linear" or set(text) & set(r"\*()[]|+?^$") else text.split(",")
