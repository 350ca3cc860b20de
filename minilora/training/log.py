"""The log of a run: its losses as a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from minilora.files import write_atomically
from minilora.training.checkpoint import History

COLUMNS = "step", "train_loss", "val_loss"


def write_log(path: str | Path, history: History) -> Path:
    """Write the losses, in nats per token, as CSV: one row per step, `pandas.read_csv(path)`.

    `train_loss` is empty at step 0, and `val_loss` at steps without an evaluation.
    """
    validation = dict(history.evaluations)
    training = dict(enumerate(history.losses, start=1))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for step in sorted({*training, *validation}):
        rows.writerow([step, *(_number(losses.get(step)) for losses in (training, validation))])
    return write_atomically(path, text.getvalue())


def _number(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.6g}"
