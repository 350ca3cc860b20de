"""The settings of a training run: a preset in TOML, overridden by flags, written down beside the result."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from minilora.files import write_atomically
from minilora.lora import LoraConfig
from minilora.nn import LlamaConfig
from minilora.training import TrainingConfig

PRESETS = resources.files("minilora") / "presets"
TABLES: dict[str, Any] = {"model": LlamaConfig, "lora": LoraConfig, "training": TrainingConfig}
CHOICES = {"method": ("lora", "full"), "dtype": ("float32", "float16")}

FLAGS = {  # a flag that is set overrides this entry
    "corpus": ("", "corpus"),
    "model": ("", "base"),
    "method": ("", "method"),
    "dtype": ("", "dtype"),
    "rank": ("lora", "r"),
    "alpha": ("lora", "lora_alpha"),
    "dropout": ("lora", "lora_dropout"),
    "targets": ("lora", "target_modules"),
    "layers": ("model", "num_hidden_layers"),
    "hidden": ("model", "hidden_size"),
    "intermediate": ("model", "intermediate_size"),
    "heads": ("model", "num_attention_heads"),
    "kv_heads": ("model", "num_key_value_heads"),
    "iters": ("training", "iters"),
    "batch": ("training", "batch"),
    "context": ("training", "context"),
    "lr": ("training", "lr"),
    "seed": ("training", "seed"),
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run does.

    Attributes
    ----------
    corpus : names or paths of the texts to learn from
    base : folder of the model to start from (fine-tuning), "" for the packaged one
    method : "lora" or "full"
    dtype : of the result on disk, "float32" or "float16"; training is in float32
    model, lora, training : the three configurations
    """

    corpus: list[str]
    base: str
    method: str
    dtype: str
    model: LlamaConfig
    lora: LoraConfig
    training: TrainingConfig


def presets() -> list[str]:
    """The names of the packaged presets."""
    return sorted(entry.name.removesuffix(".toml") for entry in PRESETS.iterdir() if entry.name.endswith(".toml"))


def settings(preset: str, flags: Namespace | None = None) -> Settings:
    """The settings of a preset, by name or as a path to a TOML file, with the flags that were given.

    Raises ValueError for an unknown preset, an entry that means nothing, or values that do not go together.
    """
    table, given = _read(preset), {k: v for k, v in vars(flags or Namespace()).items() if v is not None}
    if "rank" in given and "alpha" not in given and "lora" in table:  # the scale α/r stays
        before = {**dataclasses.asdict(LoraConfig()), **table["lora"]}
        alpha = before["lora_alpha"] * given["rank"] / before["r"]
        table["lora"]["lora_alpha"] = int(alpha) if alpha.is_integer() else alpha
    for flag, (section, entry) in FLAGS.items():
        if flag in given:
            (table.setdefault(section, {}) if section else table)[entry] = given[flag]
    if "context" in given and "model" in table:
        table["model"]["max_position_embeddings"] = given["context"]
    return _check(preset, table)


def write(folder: Path, values: Settings, used: Iterable[str] = tuple(TABLES)) -> Path:
    """Write the effective settings as `run.toml`, which is a preset again: of the tables, those that the run used."""
    flat = dataclasses.asdict(values)
    tables = {name: table for name in TABLES if (table := flat.pop(name)) and name in used}
    lines = [f"{key} = {_toml(value)}" for key, value in flat.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in table.items() if v is not None)]
    return write_atomically(folder / "run.toml", "\n".join(lines) + "\n")


def _read(preset: str) -> dict[str, Any]:
    packaged, path = PRESETS / f"{preset}.toml", Path(preset)
    if preset in presets():
        text = packaged.read_text(encoding="utf-8")
    elif path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        raise ValueError(f"there is no preset {preset!r}: expected one of {', '.join(presets())}, or a TOML file")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{preset} is not valid TOML ({error})") from None


def _check(preset: str, table: dict[str, Any]) -> Settings:
    values: dict[str, Any] = {"corpus": [], "base": "", "method": "lora", "dtype": "float32", **table}
    for name, kind in TABLES.items():
        entries, known = values.get(name, {}), [field.name for field in dataclasses.fields(kind)]
        if not isinstance(entries, dict):
            raise ValueError(f"preset {preset}: {name} should be a table, got {entries!r}")
        if unknown := ", ".join(sorted(entries.keys() - set(known))):
            raise ValueError(f"preset {preset}: [{name}] has no entry {unknown}; it has {', '.join(known)}")
        try:
            values[name] = kind(**entries)
        except TypeError as error:
            raise ValueError(f"preset {preset}: [{name}]: {error}") from None
    if unknown := ", ".join(sorted(values.keys() - {field.name for field in dataclasses.fields(Settings)})):
        raise ValueError(f"preset {preset} has no entry {unknown}")
    for name, choices in CHOICES.items():
        if values[name] not in choices:
            raise ValueError(f"preset {preset}: {name} should be one of {', '.join(choices)}, got {values[name]!r}")
    if not isinstance(values["corpus"], list):
        raise ValueError(f"preset {preset}: corpus should be a list of names, got {values['corpus']!r}")
    return Settings(**values)


def _toml(value: Any) -> str:
    """A value as TOML. JSON's notation is TOML's for text, numbers, truth values and lists."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
