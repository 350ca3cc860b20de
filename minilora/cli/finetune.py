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
    parser.add_argument(
        "--adapter",
        "--voice",
        metavar="NAME",
        help="adapter folder or voice to start from (default: a new adapter)",
    )
    training.add_flags(parser, "demo")
    parser.add_argument(
        "--method", choices=[*methods(), "full"], help="adapter method, or full for all weights (default: lora)"
    )
    parser.add_argument("--rank", type=int, metavar="R", help="rank r of the adapter (default: 8)")
    parser.add_argument("--alpha", type=float, metavar="A", help="α of the adapter (default: twice the rank)")
    parser.add_argument(
        "--dropout", type=float, metavar="P", help="dropout probability for the input of the adapter (default: 0)"
    )
    parser.add_argument(
        "--targets",
        nargs="+",
        metavar="NAME",
        help="linear layers to adapt: names with spaces or commas between them, a regular expression, or all-linear "
        "(default)",
    )
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    flags.targets = _targets(flags.targets)
    training.train(flags, fresh=False)


def _targets(words: list[str] | None) -> list[str] | str | None:
    """Split the words at commas into names; return "all-linear" and a regular expression unchanged."""
    if words and len(words) == 1 and (words[0] == "all-linear" or set(words[0]) & set(r"\*()[]|+?^$")):
        return words[0]
    return words and [name for word in words for name in word.replace(",", " ").split()]
