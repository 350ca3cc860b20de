"""`minilora eval` and `minilora info`: look at a model or an adapter."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minilora import lora
from minilora.assets import BASE
from minilora.autograd.tensor import Array
from minilora.cli import options
from minilora.data import load_ids
from minilora.files import write_json
from minilora.lora.checks import one_line
from minilora.lora.inject import lora_modules
from minilora.lora.inspect import ModuleFacts, module_facts, takers
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
    options.add_device(evaluation)
    options.add_threads(evaluation)
    evaluation.add_argument("--corpus", nargs="+", required=True, metavar="NAME", help="names or text files")
    evaluation.add_argument("--context", type=int, metavar="N", help="tokens per window (default: the model's)")
    evaluation.add_argument("--windows", type=int, default=256, metavar="N", help="how many (default: 256)")
    evaluation.add_argument("--json", metavar="FILE", help="also write the figures to a file")
    evaluation.set_defaults(run=run_eval)

    info = options.command(
        commands, "info", "show what a folder holds: a model or an adapter", "minilora info runs/bard"
    )
    info.add_argument("folder", nargs="?", help="a model or adapter folder (default: the packaged base model)")
    info.add_argument("--model", metavar="FOLDER", help="the adapter's base (default: the packaged base model)")
    info.add_argument("--json", metavar="FILE", help="also write the figures of an adapter to a file")
    info.set_defaults(run=run_info)


def run_eval(flags: Namespace) -> None:
    model = options.open_model(flags.model, flags.adapter, flags.device)
    _, val_ids = load_ids(flags.corpus)
    context = model.config.max_position_embeddings if flags.context is None else flags.context
    loss = evaluate(model, val_ids, context, flags.windows, threads=flags.threads)
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
        _adapter_info(folder, flags)
    elif flags.model or flags.json:
        raise ValueError(f"--model and --json go with an adapter folder, but {folder} has no adapter_config.json")
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


def _adapter_info(folder: Path, flags: Namespace) -> None:
    config, tensors = lora.read_adapter(folder)
    fit, weights, tied = _beside_base(folder, flags.model)
    facts = module_facts(config, tensors, weights)
    verdicts = takers(config, [module.path for module in facts], tied)
    size = _bytes(folder, "adapter_model.safetensors")
    print(f"{_headline(config, facts)}\n{fit}\n{_table(facts)}")
    print(f"{sum(module.parameters for module in facts):,} parameters, {size} on disk")
    for verdict in verdicts:
        print(f"{verdict.program:10} {'yes' if verdict.takes else 'no'}{', ' if verdict.note else ''}{verdict.note}")
    if flags.json:
        rows = {"modules": [asdict(m) for m in facts], "takers": [asdict(v) for v in verdicts]}
        write_json(flags.json, {"config": config.to_dict(), "fits": bool(weights), **rows})


def _beside_base(folder: Path, base: str | None) -> tuple[str, dict[str, Array], bool]:
    """Whether the adapter fits its base, in words; if so the weights that it adapts; and whether its head is tied."""
    name = base or "the packaged base model"
    model = Llama.from_pretrained(base or BASE)
    try:
        lora.load_adapter(model, folder)
    except lora.AdapterError as error:
        return f"does not fit {name} ({error}); say what it is for with --model", {}, False
    weights = {path: module.weight.data for path, module in lora_modules(model)}
    return f"fits {name}", weights, model.tied


def _headline(config: lora.LoraConfig, facts: list[ModuleFacts]) -> str:
    paths = [module.path for module in facts]
    names = config.target_modules
    targets = names if isinstance(names, str) else ", ".join(sorted(names))
    return (
        f"a LoRA adapter of rank {_span(map(config.rank, paths))}, alpha {_span(map(config.alpha, paths))}, scaled by "
        f"{'α/√r' if config.use_rslora else 'α/r'} = {_span(map(config.scaling, paths))}, "
        f"dropout {config.lora_dropout:g}\ntargets: {one_line(targets)}"
    )


def _span(numbers: Iterable[float]) -> str:
    low, *_, high = [*sorted(set(numbers))] * 2
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _table(facts: list[ModuleFacts]) -> str:
    width = max(len(module.path) for module in facts)
    head = f"{'module':{width}}  {'A':>9}  {'B':>9}  {'parameters':>10}  {'‖ΔW‖':>8}  {'‖ΔW‖/‖W‖':>9}  effective rank"
    return "\n".join([head, *(_line(module, width) for module in facts)])


def _line(module: ModuleFacts, width: int) -> str:
    a, b = ("×".join(map(str, shape)) for shape in (module.a_shape, module.b_shape))
    path, relative = one_line(module.path), "–" if module.relative is None else f"{module.relative:.4f}"
    return (
        f"{path:{width}}  {a:>9}  {b:>9}  {module.parameters:>10,}  {module.norm:>8.3f}  {relative:>9}  "
        f"{module.effective_rank:>14.2f}"
    )


def _bytes(folder: Path, pattern: str) -> str:
    return f"{sum(file.stat().st_size for file in folder.glob(pattern)):,} bytes"
