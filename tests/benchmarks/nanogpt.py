"""`minilora pretrain --preset nanogpt-cpu` against nanoGPT, with the recipe in its README for a laptop CPU.

Both are timed once, one after the other, as complete processes: startup, reading the data, 2,000 steps, the evaluations
in between, and writing the files. Both train on the same nine tenths of Tiny Shakespeare. Then the saved models are
evaluated on the same windows of the last tenth. minilora reads the text as bytes (a vocabulary of 256), and nanoGPT as
characters (a vocabulary of 65). In this text each character is one byte, so both losses are in nats per character.

nanoGPT saves the model with the lowest loss of its evaluations, as in its recipe; minilora saves the last one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import pickle
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minilora.data import CorpusError, load_ids
from minilora.data.batches import fixed_windows
from minilora.nn import Llama
from minilora.runs import Settings, load_settings
from minilora.training import evaluate
from tests.benchmarks.interleave import Row
from tests.benchmarks.ours import Options
from tests.benchmarks.processes import Failed, finished

NANOGPT, PRESET, ROOT = "nanoGPT", "nanogpt-cpu", Path(__file__).parents[2]
TIME_GOAL = LOSS_GOAL = 1.0
TINY_STEPS, TINY_WINDOWS = 20, 64
CONFIG, DATA, CHECKPOINT = "config/train_shakespeare_char.py", "data/shakespeare_char", "out-shakespeare-char/ckpt.pt"
RECIPE = (
    "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 "
    "--n_head=4 --n_embd=128 --dropout=0.0"
)
"""The flags in nanoGPT's README, except for the number of steps."""
EVAL_EVERY = 250
"""Steps between evaluations in nanoGPT's configuration. It saves the model after each one that is the best so far."""


def run(options: Options) -> list[Row]:
    """Return one row for the times and one for the losses."""
    assert options.nanogpt is not None
    chosen = load_settings(PRESET)
    steps = TINY_STEPS if options.tiny else chosen.training.iters
    windows = TINY_WINDOWS if options.tiny else chosen.training.eval_windows
    what = f"{steps:,} steps, as a process"
    environment = {**os.environ, "OMP_NUM_THREADS": f"{options.threads}", "OPENBLAS_NUM_THREADS": f"{options.threads}"}
    try:
        with tempfile.TemporaryDirectory() as folder:
            mine, theirs = Path(folder) / "minilora", Path(folder) / "nanoGPT"
            train_ids, val_ids = load_ids(chosen.corpus)
            their_val_ids = copy_with_data(options.nanogpt, theirs, train_ids, val_ids)
            seconds = [our_run(mine, steps, environment), their_run(theirs, steps, environment)]
            losses = [our_loss(mine, val_ids, chosen, windows), their_loss(theirs, their_val_ids, chosen, windows)]
    except (Failed, CorpusError) as error:
        return [Row(what, NANOGPT, goal=TIME_GOAL, refusal=str(error))]
    read = f"{len(train_ids):,} characters, {chosen.training.batch} × {chosen.training.context} per step"
    then = f"its loss on {windows:,} windows of the last tenth (times as low)"
    return [
        Row(what, NANOGPT, seconds[:1], seconds[1:], TIME_GOAL, checked=read, unit="s"),
        Row(then, NANOGPT, losses[:1], losses[1:], LOSS_GOAL, unit="nats per character"),
    ]


def copy_with_data(clone: Path, to: Path, train_ids: np.ndarray, val_ids: np.ndarray) -> np.ndarray:
    """Copy nanoGPT and write its data as its prepare.py does; return the validation text as nanoGPT's ids."""
    shutil.copytree(clone, to, ignore=shutil.ignore_patterns("data", "out*", ".*"))
    data = to / DATA
    data.mkdir(parents=True)
    characters = np.unique(np.concatenate([train_ids, val_ids]))  # sorted
    train, val = (np.searchsorted(characters, ids).astype(np.uint16) for ids in (train_ids, val_ids))
    train.tofile(data / "train.bin")
    val.tofile(data / "val.bin")
    names = dict(enumerate(map(chr, characters)))
    meta = {"vocab_size": len(names), "itos": names, "stoi": {name: i for i, name in names.items()}}
    (data / "meta.pkl").write_bytes(pickle.dumps(meta))
    return val.astype(np.int64)


def our_run(folder: Path, steps: int, environment: dict[str, str]) -> float:
    """Train minilora's model into `folder`; return the seconds."""
    command = [sys.executable, "-m", "minilora", "pretrain", "--preset", PRESET, "--iters", str(steps)]
    begun = time.perf_counter()
    finished([*command, "--out", folder], cwd=ROOT, env=environment)
    return time.perf_counter() - begun


def their_run(folder: Path, steps: int, environment: dict[str, str]) -> float:
    """Train nanoGPT's model in the copy of its clone; return the seconds."""
    command = [sys.executable, "train.py", CONFIG, *RECIPE.split(), f"--max_iters={steps}", f"--lr_decay_iters={steps}"]
    command.append(f"--eval_interval={min(EVAL_EVERY, steps)}")
    begun = time.perf_counter()
    finished(command, cwd=folder, env=environment)
    return time.perf_counter() - begun


def our_loss(folder: Path, val_ids: np.ndarray, chosen: Settings, windows: int) -> float:
    """Return the loss of minilora's saved model, in nats per character."""
    return evaluate(Llama.from_pretrained(folder), val_ids, chosen.training.context, windows)


@torch.no_grad()
def their_loss(folder: Path, val_ids: np.ndarray, chosen: Settings, windows: int) -> float:
    """Return the loss of nanoGPT's saved model, in nats per character, on the windows of minilora's `evaluate`."""
    if not (folder / CHECKPOINT).is_file():
        raise Failed(f"expected nanoGPT to write {CHECKPOINT}, but its loss never fell below the first evaluation's")
    saved = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    definition = _module(folder / "model.py")
    with contextlib.redirect_stdout(io.StringIO()):  # the constructor prints the number of parameters
        model = definition.GPT(definition.GPTConfig(**saved["model_args"])).eval()
    model.load_state_dict(saved["model"])
    total = 0.0
    for inputs, targets in fixed_windows(val_ids, windows, chosen.training.context, batch=32):
        _, loss = model(torch.tensor(inputs), torch.tensor(targets))
        total += loss.item() * len(inputs)
    return total / windows


def _module(path: Path) -> Any:
    """Import a Python file as a module."""
    spec = importlib.util.spec_from_file_location(f"nanogpt_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
