"""What `pretrain` and `finetune` share: the flags of a run, its settings, and training to a folder."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from minilora import lora
from minilora.cli import options, settings
from minilora.cli.settings import Settings
from minilora.data import ByteTokenizer, load_ids
from minilora.files import remove_unfinished, write_atomically
from minilora.generation import write
from minilora.nn import Llama
from minilora.training import History, Interrupted, train

CHECKPOINT = "checkpoint.safetensors"


def add_flags(parser: ArgumentParser, preset: str) -> None:
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"settings to start from: {', '.join(settings.presets())}, or a TOML file (default: {preset})",
    )
    parser.set_defaults(first_preset=preset)
    parser.add_argument("--corpus", nargs="+", metavar="NAME", help="corpora to learn from: names or text files")
    parser.add_argument("--iters", type=int, metavar="N", help="training steps")
    parser.add_argument("--batch", type=int, metavar="N", help="windows per step")
    parser.add_argument("--context", type=int, metavar="N", help="tokens per window")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--seed", type=int, help="of everything random (default: 0)")
    parser.add_argument("--dtype", choices=["float32", "float16"], help="of the result on disk (default: the preset's)")
    options.add_device(parser)
    options.add_threads(parser)
    parser.add_argument("--out", metavar="FOLDER", required=True, help="where the result and its checkpoint go")
    parser.add_argument("--resume", action="store_true", help="go on with the interrupted run in --out")


def settings_of(flags: Namespace) -> Settings:
    """The run's settings: of the interrupted run when resuming, else of the preset and the flags."""
    recorded = Path(flags.out) / "run.toml"
    if flags.resume and recorded.is_file():
        fixed = {"method"} if flags.command == "pretrain" else set()
        given = [
            f"--{flag.replace('_', '-')}"
            for flag in ("preset", *settings.FLAGS)
            if flag not in fixed and getattr(flags, flag, None) is not None
        ]
        if given:
            raise ValueError(f"--resume goes on with the settings in {recorded}; leave out {', '.join(given)}")
        return settings.settings(str(recorded))
    if flags.resume:
        raise ValueError(f"there is no run to resume in {flags.out}: expected {recorded}")
    if (recorded.parent / CHECKPOINT).exists():
        raise ValueError(f"{flags.out} already holds a run; go on with it by --resume, or choose another --out")
    for name in ("config.json", "adapter_config.json"):
        if (recorded.parent / name).exists():
            raise ValueError(f"{flags.out} already holds a model or an adapter; choose another --out")
    return settings.settings(flags.preset or flags.first_preset, flags)


def train_and_save(model: Llama, chosen: Settings, flags: Namespace) -> None:
    out = Path(flags.out)
    train_ids, val_ids = load_ids(chosen.corpus)
    print(f"learning from {' and '.join(chosen.corpus)}: {len(train_ids):,} characters, {len(val_ids):,} held out")
    if not flags.resume:
        settings.write(out, chosen, with_model=flags.command == "pretrain")
    remove_unfinished(out)
    try:
        history = train(
            model,
            train_ids,
            val_ids,
            chosen.training,
            checkpoint_path=out / CHECKPOINT,
            resume=flags.resume and (out / CHECKPOINT).exists(),
            sample=lambda: write(model, "\n", 120, seed=chosen.training.seed),
            threads=flags.threads,
        )
    except Interrupted as stop:
        raise Interrupted(f"{stop}; go on with: minilora {flags.command} --resume --out {out}") from None
    _save(model, chosen, out, history)
    print(f"validation loss {history.val_loss:.4f} nats per character; saved in {out}")


def _save(model: Llama, chosen: Settings, out: Path, history: History) -> None:
    if lora.adapters(model):
        lora.save_adapter(model, out, base=chosen.base, dtype=chosen.dtype)
    else:
        model.save_pretrained(out, chosen.dtype)
        ByteTokenizer().save(out)
    losses = {"losses": [round(x, 5) for x in history.losses], "evaluations": history.evaluations}
    write_atomically(out / "history.json", json.dumps(losses) + "\n")
