"""`minilora eval` and `minilora info`: look at a model or an adapter."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from minilora import lora
from minilora.assets import BASE
from minilora.cli import options
from minilora.data import load_ids
from minilora.files import write_json
from minilora.nn import Llama
from minilora.training import evaluate


def add(commands: Any) -> None:
    evaluation = options.command(
        commands,
        "eval",
        "measure a model's loss on the held-out part of a corpus",
        "minilora eval --adapter runs/bard --corpus tinyshakespeare",
    )
    options.add_model(evaluation)
    options.add_adapters(evaluation)
    evaluation.add_argument("--corpus", nargs="+", required=True, metavar="NAME", help="names or text files")
    evaluation.add_argument("--context", type=int, metavar="N", help="tokens per window (default: the model's)")
    evaluation.add_argument("--windows", type=int, default=256, metavar="N", help="how many (default: 256)")
    evaluation.add_argument("--json", metavar="FILE", help="also write the figures to a file")
    evaluation.set_defaults(run=run_eval)

    info = options.command(
        commands, "info", "show what a folder holds: a model or an adapter", "minilora info runs/bard"
    )
    info.add_argument("folder", nargs="?", help="a model or adapter folder (default: the packaged base model)")
    info.set_defaults(run=run_info)


def run_eval(flags: Namespace) -> None:
    model = options.open_model(flags.model, flags.adapter)
    _, val_ids = load_ids(flags.corpus)
    context = model.config.max_position_embeddings if flags.context is None else flags.context
    loss = evaluate(model, val_ids, context, flags.windows)
    print(
        f"{' and '.join(flags.corpus)}, held-out text: {loss:.4f} nats per character "
        f"({loss / math.log(2):.4f} bits), {flags.windows} windows of {context}"
    )
    if flags.json:
        figures = {"corpus": flags.corpus, "loss": loss, "windows": flags.windows, "context": context}
        write_json(flags.json, figures)


def run_info(flags: Namespace) -> None:
    folder = Path(flags.folder or BASE)
    if (folder / "adapter_config.json").exists():
        _adapter_info(folder)
    else:
        _model_info(folder)


def _model_info(folder: Path) -> None:
    model = Llama.from_pretrained(folder)
    c = model.config
    print(
        f"a Llama of {c.num_hidden_layers} layers, width {c.hidden_size}, {c.num_attention_heads} heads "
        f"({c.num_key_value_heads} for keys), MLP {c.intermediate_size}, context {c.max_position_embeddings}, "
        f"vocabulary {c.vocab_size}"
    )
    print(lora.report(model))
    print(f"{_bytes(folder, 'model*.safetensors')} on disk")


def _adapter_info(folder: Path) -> None:
    config, tensors = lora.read_adapter(folder)
    targets = config.target_modules
    print(
        f"a LoRA adapter of rank {config.r}, alpha {config.lora_alpha:g}"
        f"{', scaled by α/√r' if config.use_rslora else ''}, for "
        f"{targets if isinstance(targets, str) else ', '.join(sorted(targets))}"
    )
    print(f"{'module':45}  {'A':>9}  {'B':>9}  {'parameters':>10}  {'‖ΔW‖':>8}")
    for name in sorted(tensors):
        path, found, _ = name.partition(".lora_A.weight")
        if found:
            a, b = tensors[name], tensors.get(f"{path}.lora_B.weight", np.empty((0, 0)))
            if a.ndim != 2 or b.ndim != 2 or b.shape[1] != len(a):
                raise ValueError(f"{folder}: {path} needs A (r, in) and B (out, r), found {a.shape} and {b.shape}")
            norm = np.linalg.norm(config.scaling(path) * (b.astype(np.float64) @ a.astype(np.float64)))
            sizes = ["×".join(map(str, m.shape)) for m in (a, b)]
            print(f"{path:45}  {sizes[0]:>9}  {sizes[1]:>9}  {a.size + b.size:>10,}  {norm:>8.3f}")
    print(
        f"{sum(t.size for t in tensors.values()):,} parameters, {_bytes(folder, 'adapter_model.safetensors')} on disk"
    )


def _bytes(folder: Path, pattern: str) -> str:
    return f"{sum(file.stat().st_size for file in folder.glob(pattern)):,} bytes"
