"""`minilora runs`: a table of the runs in a folder."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from minilora.cli import options
from minilora.messages import one_line
from minilora.runs import CHECKPOINT, LOG, RUN, Settings, load_settings
from minilora.training.checkpoint import saved_steps

HEADS = "run", "method", "corpus", "steps", "lr", "first", "last", "best"


def add(commands: Any) -> None:
    parser = options.command(commands, "runs", "list the runs in a folder with their losses", "minilora runs runs")
    parser.add_argument("folder", nargs="?", default="runs", help="folder to search (default: runs)")
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    root = Path(flags.folder)
    found = sorted(path.parent for path in root.rglob(RUN))
    if not found:
        raise ValueError(f"found no runs in {root}; expected folders with {RUN}, as --out of finetune and pretrain")
    rows = [HEADS, *(_row(folder, root) for folder in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    for row in rows:
        names = map(str.ljust, row[:3], widths)
        print("  ".join([*names, *map(str.rjust, row[3:], widths[3:])]).rstrip())
    print("first, last and best: held-out loss in nats per byte")


def _row(folder: Path, root: Path) -> tuple[str, ...]:
    name = one_line(str(folder.relative_to(root) if folder != root else folder))
    try:
        settings, losses = load_settings(folder / RUN), _losses(folder)
        steps = saved_steps(folder / CHECKPOINT)
    except ValueError as error:
        return (name, f"unreadable: {one_line(str(error))[:60]}", *[""] * 6)
    done = f"{steps}/{settings.training.iters}"
    numbers = [f"{loss:.4f}" for loss in (losses[0], losses[-1], min(losses))] if losses else ["–"] * 3
    return (name, _method(settings), _corpora(settings), done, f"{settings.training.lr:g}", *numbers)


def _method(settings: Settings) -> str:
    rank = getattr(settings.adapter, "r", None)
    return f"{settings.method} r={rank}" if rank else settings.method


def _corpora(settings: Settings) -> str:
    return one_line("+".join(Path(name).name if Path(name).is_absolute() else name for name in settings.corpus))


def _losses(folder: Path) -> list[float]:
    """Return the validation losses so far, in order."""
    if not (folder / LOG).exists():
        return []
    with open(folder / LOG, newline="") as file:
        return [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
