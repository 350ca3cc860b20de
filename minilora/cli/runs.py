"""`minilora runs`: a table of the runs in a folder."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from minilora.cli import options
from minilora.files import read_json
from minilora.messages import one_line
from minilora.runs import CHECKPOINT, HISTORY, LOG, RUN, Settings, load_settings
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
        raise ValueError(f"found no runs in {root}; expected folders that contain {RUN}, such as --out of finetune")
    rows: list[tuple[str, ...]] = [HEADS]
    problems = []
    for folder in found:
        name = one_line(str(folder.relative_to(root) if folder != root else folder))
        try:
            rows.append((name, *_row(folder)))
        except (ValueError, KeyError, OSError) as error:
            problems.append(f"{name} cannot be read: {one_line(str(error))}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    for row in rows:
        names = map(str.ljust, row[:3], widths)
        print("  ".join([*names, *map(str.rjust, row[3:], widths[3:])]).rstrip())
    print("first, last and best: held-out loss in nats per byte", *problems, sep="\n")


def _row(folder: Path) -> tuple[str, ...]:
    settings, losses, checkpoint = load_settings(folder / RUN), _losses(folder), folder / CHECKPOINT
    steps = saved_steps(checkpoint) if checkpoint.exists() else "–"
    done = f"{steps}/{settings.training.iters}"
    numbers = [f"{loss:.4f}" for loss in (losses[0], losses[-1], min(losses))] if losses else ["–"] * 3
    return (_method(settings), _corpora(settings), done, f"{settings.training.lr:g}", *numbers)


def _method(settings: Settings) -> str:
    rank = getattr(settings.adapter, "r", None)
    return f"{settings.method} r={rank}" if rank else settings.method


def _corpora(settings: Settings) -> str:
    return one_line("+".join(Path(name).name if Path(name).is_absolute() else name for name in settings.corpus))


def _losses(folder: Path) -> list[float]:
    """Return the validation losses so far, in order; runs of earlier versions have only history.json."""
    if (folder / LOG).exists():
        with open(folder / LOG, newline="") as file:
            return [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    if (folder / HISTORY).exists():
        return [loss for _, loss in read_json(folder / HISTORY)["evaluations"]]
    return []
