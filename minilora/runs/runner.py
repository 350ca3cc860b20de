"""Runs: train an adapter or a model from settings and save it in a folder."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import TypeAlias

import numpy as np

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.assets import BASE
from minilora.backend import Array, device_module
from minilora.data import ByteTokenizer
from minilora.files import remove_unfinished, write_atomically
from minilora.generation import write
from minilora.messages import expect
from minilora.nn import Llama
from minilora.runs.loading import load_settings
from minilora.runs.settings import RUN, Settings
from minilora.training import CheckpointError, History, Run, train, train_steps
from minilora.training.run import check_run

WEIGHTS = "model.safetensors", "adapter_model.safetensors"
CHECKPOINT, HISTORY, LOG = "checkpoint.safetensors", "history.json", "log.csv"

Texts: TypeAlias = tuple[Array, Array]
"""Training and validation token ids, each (n,)."""


def run(
    settings: Settings,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    quiet: bool = False,
) -> History:
    """Train with `settings` and save the result, the settings, the losses and the checkpoint in the folder `out`.

    The result is an adapter in PEFT's format or, with the method "full", a model in Hugging Face's format. The losses
    are in log.csv, for pandas, and history.json.

    Parameters
    ----------
    resume : continue the run in `out`. With the same iters, the result is bit-for-bit identical to that of an
        uninterrupted run. With a larger iters, a finished run continues on the new learning-rate schedule
    device, threads : device to compute on, and number of threads, by default one per core; the result is bit-for-bit
        identical for any number of threads
    quiet : print nothing

    Raises the same errors as `train`, and ValueError if `out` already contains a run, a model or an adapter.
    """
    expect(settings, Settings, "settings, such as load_settings('demo')")
    folder = Path(out)
    if not resume:
        _refuse_used(folder, settings)
    checkpoint = folder / CHECKPOINT
    if resume and not checkpoint.exists() and (folder / LOG).exists():
        raise CheckpointError(f"cannot resume: {checkpoint} is missing; choose another folder for a new run")
    model, (train_ids, val_ids) = make_model(settings, device), settings.load_ids()
    check_run(model, train_ids, val_ids, settings.training.context)
    if not resume:
        settings.save(folder)  # before anything is printed, so that an unusable folder is reported first
    if not quiet:
        if settings.model is None:
            print(lora.report(model))
        corpora = " and ".join(settings.corpus)
        print(f"training on {corpora}: {len(train_ids):,} bytes, {len(val_ids):,} held out", flush=True)
        _remark_on_the_head(model, settings, train_ids)
        _remark_on_the_rank(model)
    remove_unfinished(folder)
    history = train(
        model,
        train_ids,
        val_ids,
        settings.training,
        checkpoint_path=checkpoint,
        resume=resume and checkpoint.exists(),
        log_path=folder / LOG,
        started=lambda: _update(settings, folder),
        sample=lambda: write(model, "\n", 120, seed=settings.training.seed),
        quiet=quiet,
        threads=threads,
    )
    save_result(model, settings, folder, history)
    return history


def _update(settings: Settings, folder: Path) -> None:
    """Save the settings of a resumed run if they differ from the recorded ones."""
    if settings.absolute() != load_settings(folder / RUN):
        settings.save(folder)


def run_steps(
    settings: Settings, texts: Texts | None = None, *, adapter: str = "default", threads: int | None = None
) -> Generator[Run, None, None]:
    """Generator form of `run`, in memory: yields the Run after each step and at the end, and writes no files.

    `texts` are the training and validation token ids, by default those of the settings' corpus.
    """
    model, (train_ids, val_ids) = make_model(settings, adapter=adapter), texts or settings.load_ids()
    return train_steps(model, train_ids, val_ids, settings.training, threads=threads)


def make_model(settings: Settings, device: str = "cpu", adapter: str = "default") -> Llama:
    """Create the model at the start of a run: a new model, or the base, with a new adapter if the method has one."""
    expect(settings, Settings, "settings, such as load_settings('demo')")
    rng = np.random.default_rng(settings.training.seed)
    if settings.model:
        return Llama(settings.model, rng).to(device)
    model = open_base(settings.base, device)
    if settings.start:
        lora.load_adapter(model, settings.start, adapter)
    elif settings.adapter:
        lora.inject(model, settings.adapter, adapter, rng=rng)
    return model


def open_base(folder: str | Path | None = None, device: str = "cpu") -> Llama:
    """Load the model in a folder, by default the packaged base.

    Raises ValueError if its tokenizer is not byte-level.
    """
    device_module(device)  # first, so that a missing GPU is reported immediately
    model = Llama.from_pretrained(folder or BASE, device)
    ByteTokenizer.load(folder or BASE)
    model.eval()
    return model


def _remark_on_the_head(model: Llama, settings: Settings, train_ids: Array) -> None:
    """Recommend adapting the head for text that is not ASCII, whose bytes the packaged base cannot tell apart."""
    share = float(np.mean(train_ids > 127))
    new = settings.adapter and not settings.start
    if new and not settings.base and share > 1e-3 and "lm_head" not in hosts(model):
        print(
            f"{share:.1%} of the bytes are not ASCII, but the packaged base was trained on ASCII only; for a much "
            "better result, start a new run that also adapts the output head: --targets '.*_proj|lm_head'"
        )


def _remark_on_the_rank(model: Llama) -> None:
    """Remark on ranks above the size of a matrix: ΔW cannot have such a rank."""
    for path, host in hosts(model).items():
        rank, size = (
            getattr(host.config["default"], "rank", lambda path: 0)(path),
            (host.out_features, host.in_features),
        )
        if rank > min(size):
            print(
                f"rank {rank} is larger than the smaller dimension of {path} ({size[0]} × {size[1]}); rank {min(size)} "
                "can already represent every update, with fewer parameters"
            )
            return


def check_new_folder(path: str | Path) -> Path:
    """Return `path` as a Path. Raises ValueError if the folder already contains a file of a model or an adapter."""
    folder = Path(path)
    for name in ("config.json", "adapter_config.json", *WEIGHTS, "tokenizer.json"):
        if (folder / name).exists():
            raise ValueError(f"{folder} already contains a model or an adapter; choose another folder")
    return folder


def _refuse_used(folder: Path, settings: Settings) -> None:
    """Raise ValueError if a folder already contains a run, a model, an adapter, or other files that would be replaced.

    The run.toml of the same run is not refused: it may have been stopped before its first checkpoint.
    """
    if (folder / CHECKPOINT).exists():
        raise ValueError(f"{folder} already contains a run; resume it, or choose another folder")
    check_new_folder(folder)
    for name in (LOG, HISTORY, RUN):  # without a checkpoint, they are not from a run
        if (folder / name).exists() and not (
            name == RUN and (folder / name).read_bytes() == settings.to_toml().encode()
        ):
            raise ValueError(f"{folder} already contains {name}, which would be replaced; choose another folder")


def save_result(model: Llama, settings: Settings, folder: Path, history: History) -> None:
    """Save the losses and the trained adapter or, with the method "full", the model."""
    if settings.adapter:
        lora.save_adapter(model, folder, dtype=settings.dtype)
    else:
        model.save_pretrained(folder, settings.dtype)
        ByteTokenizer().save(folder)
    losses = {"losses": [round(x, 5) for x in history.losses], "evaluations": history.evaluations}
    write_atomically(folder / HISTORY, json.dumps(losses) + "\n")
