"""Flags of a training run, shared by `pretrain` and `finetune`, and the settings they select."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from minilora import runs
from minilora.cli import options
from minilora.runs.settings import CHANGEABLE
from minilora.training import Interrupted

FLAGS = {name: "model" if name == "base" else name for name in CHANGEABLE}  # setting -> the flag that changes it


def add_flags(parser: ArgumentParser, preset: str) -> None:
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"settings to start from: {', '.join(runs.presets())}, or a TOML file (default: {preset})",
    )
    parser.set_defaults(default_preset=preset)
    options.add_corpus(parser)
    parser.add_argument("--iters", type=int, metavar="N", help="training steps")
    parser.add_argument("--batch", type=int, metavar="N", help="windows per step")
    parser.add_argument("--context", type=int, metavar="N", help="tokens per window")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--seed", type=int, help="random seed (default: the preset's, else 0)")
    parser.add_argument("--dtype", choices=["float32", "float16"], help="dtype on disk (default: the preset's)")
    options.add_device(parser)
    options.add_threads(parser)
    parser.add_argument("--out", metavar="FOLDER", required=True, help="output folder for the result and checkpoint")
    parser.add_argument("--resume", action="store_true", help="resume the interrupted run in --out")


def train(flags: Namespace, fresh: bool) -> None:
    """Train as specified by the flags: a new model if `fresh`, otherwise starting from a base."""
    settings = _recorded(flags) if flags.resume else runs.load_settings(_preset(flags), fresh, **_changes(flags))
    try:
        history = runs.run(settings, flags.out, resume=flags.resume, device=flags.device, threads=flags.threads)
    except Interrupted as stop:
        raise Interrupted(f"{stop}; resume with: minilora {flags.command} --resume --out {flags.out}") from None
    print(f"validation loss {history.val_loss:.4f} nats per byte; saved in {flags.out}")
    step, best = min(history.evaluations, key=lambda pair: pair[1])
    if round(best, 3) < round(history.val_loss, 3):
        advice = "fewer steps (--iters)" if step else "a lower learning rate (--lr)"
        print(f"the validation loss was lower after step {step}: {best:.4f}; {advice} may give a better result")


def _preset(flags: Namespace) -> str:
    return flags.preset or flags.default_preset


def _changes(flags: Namespace) -> dict[str, object]:
    """Return the settings changed by flags."""
    return {name: value for name, flag in FLAGS.items() if (value := getattr(flags, flag, None)) is not None}


def _recorded(flags: Namespace) -> runs.Settings:
    """Load the settings of the interrupted run in --out."""
    recorded = Path(flags.out) / runs.RUN
    if not recorded.is_file():
        raise ValueError(f"there is no run to resume in {flags.out}; expected the file {recorded}")
    given = ["preset"] * bool(flags.preset) + [FLAGS[name] for name in _changes(flags)]
    if given:
        names = ", ".join(f"--{flag.replace('_', '-')}" for flag in given)
        raise ValueError(f"--resume uses the settings in {recorded}; leave out {names}")
    return runs.load_settings(recorded)
