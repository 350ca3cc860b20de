"""`minilora info`: describe a model or adapter folder."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.adapters.files import packaged_voice
from minilora.adapters.method import Method
from minilora.assets import BASE
from minilora.backend import Array
from minilora.cli import options
from minilora.files import write_json
from minilora.lora.facts import ModuleFacts, loaders, module_facts
from minilora.messages import one_line
from minilora.nn import Llama


def add(commands: Any) -> None:
    parser = options.command(commands, "info", "describe a model or adapter folder", "minilora info runs/bard")
    parser.add_argument(
        "folder", nargs="?", help="model or adapter folder, or a voice (default: the packaged base model)"
    )
    parser.add_argument(
        "--model",
        metavar="FOLDER",
        help="base of the adapter (default: as recorded)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results to a JSON file")
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    folder = packaged_voice(flags.folder or BASE) or Path(flags.folder or BASE)
    if (folder / "adapter_config.json").exists():
        _adapter_info(folder, flags)
    elif flags.model or flags.json:
        raise ValueError(f"--model and --json require an adapter folder, but {folder} has no adapter_config.json")
    else:
        _model_info(folder)


def _model_info(folder: Path) -> None:
    model = Llama.from_pretrained(folder)
    c = model.config
    print(
        f"a Llama with {c.num_hidden_layers} layers, width {c.hidden_size}, {c.num_attention_heads} heads "
        f"({c.num_key_value_heads} key/value heads), MLP {c.intermediate_size}, context {c.max_position_embeddings}, "
        f"vocabulary {c.vocab_size}"
    )
    print(lora.report(model))
    print(f"{_bytes(folder, 'model*.safetensors')} on disk")


def _adapter_info(folder: Path, flags: Namespace) -> None:
    config, tensors = lora.read_adapter(folder)
    fit, weights, tied = _beside_base(folder, flags.model)
    facts = module_facts(config, tensors, weights)
    programs = loaders(config, [module.path for module in facts], tied)
    size = _bytes(folder, "adapter_model.safetensors")
    print(f"{_headline(config, facts)}\n{fit}\n{_table(facts)}")
    print(f"{sum(module.parameters for module in facts):,} parameters, {size} on disk")
    for loader in programs:
        print(f"{loader.program:10} {'yes' if loader.compatible else 'no'}{', ' if loader.note else ''}{loader.note}")
    if flags.json:
        rows = {"modules": [asdict(m) for m in facts], "loaders": [asdict(loader) for loader in programs]}
        write_json(flags.json, {"config": config.to_dict(), "fits": bool(weights), **rows})


def _beside_base(folder: Path, base: str | None) -> tuple[str, dict[str, Array], bool]:
    """Load the adapter into its base and return a message, the adapted weights by path, and `model.tied`.

    The message says whether the adapter fits. If it does not, the dict is empty and the flag is False.
    """
    try:
        found = Path(base) if base else lora.find_base(folder)
    except lora.AdapterError as error:
        return str(error), {}, False
    name = "the packaged base model" if found == BASE else f"its base {found}"
    model = Llama.from_pretrained(found)
    try:
        lora.load_adapter(model, folder)
    except lora.AdapterError as error:
        return f"does not fit {base or name} ({error}); specify its base with --model", {}, False
    weights = {path: host.weight.data for path, host in hosts(model).items()}
    return f"fits {base or name}", weights, model.tied


def _headline(config: Method, facts: list[ModuleFacts]) -> str:
    names = config.target_modules
    targets = names if isinstance(names, str) else ", ".join(sorted(names))
    return f"{config.summary([module.path for module in facts])}\ntargets: {one_line(targets)}"


def _table(facts: list[ModuleFacts]) -> str:
    """Return the table of modules: tensor shapes, parameter count, norms of ΔW and effective rank."""
    names = list(dict.fromkeys(name for module in facts for name in module.shapes))
    heads = ["module", *(name.partition("_")[2] or name for name in names), "parameters", "‖ΔW‖", "‖ΔW‖/‖W‖"]
    rows = [[*heads, "effective rank"]]
    for module in facts:
        shapes = ("×".join(map(str, module.shapes[name])) if name in module.shapes else "–" for name in names)
        numbers = (module.norm, "8.3f"), (module.relative, ".4f"), (module.effective_rank, ".2f")
        texts = ("–" if number is None else format(number, form) for number, form in numbers)
        rows.append([one_line(module.path), *shapes, f"{module.parameters:,}", *texts])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [[f"{row[0]:{widths[0]}}", *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(line) for line in lines)


def _bytes(folder: Path, pattern: str) -> str:
    return f"{sum(file.stat().st_size for file in folder.glob(pattern)):,} bytes"
