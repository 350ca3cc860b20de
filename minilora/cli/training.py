"""Flags of a training run, shared by `pretrain` and `finetune`, and the settings they select."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minilora import runs
from minilora.cli import options
from minilora.runs.settings import CHANGEABLE
from minilora.training import History, Interrupted, TrainingConfig
from minilora.training.checkpoint import saved_steps
from minilora.training.config import CHANGEABLE_LATER

OWN_FLAGS = {"base": "model", "start": "adapter", "checkpoint_every": "save_every"}
SETTINGS = {flag: name for name, flag in OWN_FLAGS.items()}
NUMBERS = {  # flag: its type and its help
    "iters": (int, "training steps"),
    "batch": (int, "windows per step"),
    "context": (int, "tokens per window"),
    "lr": (float, "peak learning rate"),
    "eval_every": (int, "steps between evaluations on held-out text"),
    "save_every": (int, "steps between checkpoints"),
    "seed": (int, "random seed"),
}
ADAPTER_FLAGS = "rank", "alpha", "dropout", "targets"
FLAGS = {name: OWN_FLAGS.get(name, name) for name in CHANGEABLE}  # setting -> the flag that changes it


def add_flags(parser: ArgumentParser, preset: str) -> None:
    """Add the flags of a training run, whose defaults are the settings of a preset."""
    known = runs.load_settings(preset)
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"settings to start from: {', '.join(runs.presets())}, or a TOML file (default: {preset}, whose settings "
        "are the defaults below)",
    )
    parser.set_defaults(default_preset=preset)
    options.add_corpus(parser, default=known.corpus)
    for flag, (kind, help) in NUMBERS.items():
        default = getattr(known.training, SETTINGS.get(flag, flag))
        parser.add_argument(
            f"--{flag.replace('_', '-')}", type=kind, metavar="N", help=f"{help} (default: {default:g})"
        )
    parser.add_argument("--sample-every", type=int, metavar="N", help="steps between samples (default: --eval-every)")
    parser.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="stop after N evaluations without a lower held-out loss (default: never)",
    )
    parser.add_argument(
        "--keep",
        choices=["last", "best"],
        help=f"result to save: the last, or the one with the lowest held-out loss (default: {known.training.keep})",
    )
    parser.add_argument("--dtype", choices=["float32", "float16"], help=f"dtype on disk (default: {known.dtype})")
    options.add_device(parser)
    options.add_threads(parser)
    parser.add_argument("--out", metavar="FOLDER", required=True, help="output folder for the result and checkpoint")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out; with a larger --iters, a finished run can be continued too",
    )


def train(flags: Namespace, fresh: bool) -> None:
    """Train as specified by the flags: a new model if `fresh`, otherwise starting from a base."""
    settings = _resumed(flags, fresh) if flags.resume else runs.load_settings(_preset(flags), fresh, **_changes(flags))
    given = ", ".join(f"--{name}" for name in ADAPTER_FLAGS if getattr(flags, name, None) is not None)
    if given and not settings.adapter:
        raise ValueError(f"{given} has no effect on full training; leave it out, or choose another --method")
    try:
        history = runs.run(settings, flags.out, resume=flags.resume, device=flags.device, threads=flags.threads)
    except Interrupted as stop:
        raise Interrupted(f"{stop}; resume with: minilora {flags.command} --resume --out {flags.out}") from None
    print("\n".join(_summary(history, settings.training.keep, flags.out)))


def _summary(history: History, keep: str, out: str) -> Iterator[str]:
    (step, best), last = history.best, history.val_loss
    kept = f", reached after step {step}" if keep == "best" and step < len(history.losses) else ""
    yield f"validation loss {best if keep == 'best' else last:.4f} nats per byte{kept}; saved in {out}"
    if keep == "last" and round(best, 3) < round(last, 3):
        advice = (
            "--keep best would have saved that state"
            if step
            else "a lower learning rate (--lr) may give a better result"
        )
        yield f"the validation loss was lower after step {step}: {best:.4f}; {advice}"


def _preset(flags: Namespace) -> str:
    return flags.preset or flags.default_preset


def _changes(flags: Namespace) -> dict[str, Any]:
    """Return the settings changed by flags."""
    return {name: value for name, flag in FLAGS.items() if (value := getattr(flags, flag, None)) is not None}


def _resumed(flags: Namespace, fresh: bool) -> runs.Settings:
    """Load the settings of the run in --out, with the changes that a resumed run may have.

    Other flags may be repeated. Raises ValueError for one that differs from the recorded settings.
    """
    path = Path(flags.out) / runs.RUN
    if not path.is_file():
        raise ValueError(f"there is no run to resume in {flags.out}; expected the file {path}")
    recorded, changes = runs.load_settings(path), _changes(flags)
    asked = runs.load_settings(flags.preset, fresh, **changes) if flags.preset else runs.load_settings(path, **changes)
    # The warmup depends on iters. The base and the texts may have moved; checksums tell whether they are the same.
    free = {*CHANGEABLE_LATER, *(["warmup"] if "iters" in changes else []), "base", "corpus"}
    for name, (before, now) in runs.differences(recorded, asked).items():
        if name not in free:
            flag, preset = f"--{FLAGS[name].replace('_', '-')}", " (or --preset)" * bool(flags.preset)
            raise ValueError(
                f"the run in {flags.out} has {flag} {_shown(before)}, but this command sets it to {_shown(now)}; leave "
                f"out {flag}{preset}, or choose another --out for a new run"
            )
    later = {name: value for name, value in changes.items() if name in CHANGEABLE_LATER}
    training = dataclasses.replace(recorded.training, **later)
    checkpoint = Path(flags.out) / runs.CHECKPOINT
    if training.iters != recorded.training.iters and checkpoint.exists():
        print(_schedule_change(recorded.training, training, saved_steps(checkpoint)))
    moved = {name: changes[name] for name in ("base", "corpus") if name in changes}
    return dataclasses.replace(recorded, training=training, **moved)


def _schedule_change(before: TrainingConfig, now: TrainingConfig, steps: int) -> str:
    old, new = (c.learning_rate(steps) for c in (before, now))
    return (
        f"the schedule ends at step {now.iters} instead of {before.iters}: the learning rate after step {steps} is "
        f"{new:.2g} instead of {old:.2g}"
    )


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else "(none)" if value in ("", None) else str(value)
