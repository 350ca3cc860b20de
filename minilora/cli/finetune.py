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
        "fine-tune a model on a text, with an adapter or in full",
        "minilora finetune --corpus tinyshakespeare --rank 8 --out runs/bard",
    )
    options.add_model(parser)
    training.add_flags(parser, "demo")
    parser.add_argument("--method", choices=[*methods(), "full"], help="adapter method, or full for all weights")
    parser.add_argument("--rank", type=int, metavar="R", help="rank r of the adapter")
    parser.add_argument("--alpha", type=float, metavar="A", help="α of the adapter (default: keep α/r of the preset)")
    parser.add_argument("--dropout", type=float, metavar="P", help="dropout probability for the input of the adapter")
    parser.add_argument(
        "--targets",
        type=_targets,
        metavar="NAMES",
        help="linear layers to adapt: comma-separated names, a regular expression, or all-linear",
    )
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    training.train(flags, fresh=False)


def _targets(text: str) -> list[str] | str:
    """Split comma-separated names; return "all-linear" and regular expressions unchanged."""
    return text if text == "all-linear" or set(text) & set(r"\*()[]|+?^$") else text.split(",")
