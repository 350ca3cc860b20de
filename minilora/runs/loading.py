"""Load the settings of a run: a preset in TOML, plus changes."""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from minilora.adapters.base import find_base
from minilora.adapters.files import read_config
from minilora.adapters.method import methods
from minilora.assets import BASE
from minilora.data.corpora import is_known
from minilora.nn import LlamaConfig
from minilora.runs.settings import CHANGEABLE, Settings
from minilora.training import TrainingConfig

PRESETS = resources.files("minilora.runs") / "presets"
KINDS = {  # entries outside the tables: the type, and its description
    "corpus": (list, "a list of names"),
    "ascii": (bool, "true or false"),
    "encoding": (str, "the name of an encoding, such as cp1252"),
    "base": (str, "a model folder"),
    "start": (str, "an adapter folder or the name of a voice"),
}


def presets() -> list[str]:
    """The names of the packaged presets."""
    return sorted(entry.name.removesuffix(".toml") for entry in PRESETS.iterdir() if entry.name.endswith(".toml"))


def load_settings(preset: str | Path, fresh: bool | None = None, **changes: Any) -> Settings:
    """Load a preset, by name or by the path of a TOML file, and apply changes: `load_settings("demo", rank=4)`.

    Parameters
    ----------
    fresh : train from scratch (True) or start from `base` (False); by default as in the preset
    changes : settings by the names in CHANGEABLE. If rank is given without alpha, alpha is scaled to keep α/r; if lr is
        given without min_lr, min_lr keeps its ratio to lr; if iters is given without warmup, the warmup is limited to a
        fifth of the steps

    Raises ValueError for an unknown preset, an unknown setting, or invalid values.
    """
    if unknown := ", ".join(sorted(changes.keys() - CHANGEABLE.keys())):
        raise ValueError(f"unknown settings: {unknown}; valid settings: {', '.join(CHANGEABLE)}")
    preset = str(preset)
    top = {entry: changes[name] for name, (section, entry) in CHANGEABLE.items() if not section and name in changes}
    table = {"method": "lora", **_read(preset), **top}
    table["adapter"] = _adapter_entries(preset, table)
    if table.get("start"):
        _start_from(table, changes)
    if "rank" in changes and "alpha" not in changes:
        _keep_scale(table, changes["rank"])
    if fresh:
        table |= {"method": "full", "model": table.get("model", {})}
    before = copy.copy(table.get("training", {}))
    for name, (section, entry) in CHANGEABLE.items():
        if section and name in changes and (section != "model" or "model" in table):
            table.setdefault(section, {})[entry] = changes[name]
    if "lr" in changes and "min_lr" not in changes:
        _keep_decay(table["training"], before)
    if "iters" in changes and "warmup" not in changes:
        _shorten_warmup(table["training"])
    if fresh is False:
        table.pop("model", None)
    elif "context" in changes and "model" in table:
        table["model"]["max_position_embeddings"] = changes["context"]
    return _check(preset, table)


def _adapter_entries(preset: str, table: dict[str, Any]) -> dict[str, Any]:
    """The entries of the method's table, such as [lora], and entries of other tables that the method also accepts."""
    if "adapter" in table:
        raise ValueError(
            f"preset {preset}: unknown entry `adapter`; adapter settings belong in a table named after the method, "
            "such as [lora]"
        )
    tables = {name: table.pop(name) for name in methods() if name in table}
    for name, entries in tables.items():
        if not isinstance(entries, dict):
            raise ValueError(f"preset {preset}: expected `{name}` to be a table, got {entries!r}")
    own, known = tables.pop(str(table["method"]), {}), _entries(table["method"])
    return {**{k: v for other in tables.values() for k, v in other.items() if k in known}, **own}


def _start_from(table: dict[str, Any], changes: dict[str, Any]) -> None:
    """Take the method, its settings and the base from the adapter that training starts from, unless recorded."""
    start = table["start"]
    if given := ", ".join(name for name in ("method", "rank", "alpha", "targets") if name in changes):
        raise ValueError(f"the adapter {start} has its own {given}; leave out {given}, or train a new adapter")
    if "start" not in changes and table["adapter"]:
        return
    config = read_config(start)
    table |= {"method": config.name, "adapter": dataclasses.asdict(config)}
    if not table.get("base"):
        base = find_base(start)
        table["base"] = "" if base == BASE else str(base)


def _entries(method: Any) -> dict[str, Any]:
    """The settings of a method with their default values; empty for "full"."""
    chosen = methods().get(str(method))
    return dataclasses.asdict(chosen()) if chosen else {}


def _shorten_warmup(training: dict[str, Any]) -> None:
    """Limit the preset's warmup to a fifth of the steps, so that a short run reaches its learning rate."""
    iters, warmup = training["iters"], training.get("warmup")
    if isinstance(iters, int) and isinstance(warmup, int):
        training["warmup"] = min(warmup, iters // 5)


def _keep_decay(training: dict[str, Any], before: dict[str, Any]) -> None:
    """Change the final learning rate in proportion to the peak rate."""
    lr, min_lr = before.get("lr", TrainingConfig.lr), before.get("min_lr", TrainingConfig.min_lr)
    if all(isinstance(x, int | float) for x in (lr, min_lr, training["lr"])) and 0 < lr != training["lr"]:
        training["min_lr"] = min_lr * training["lr"] / lr


def _keep_scale(table: dict[str, Any], rank: int) -> None:
    """Change α in proportion to r, for methods with the scale α/r."""
    before = {**_entries(table["method"]), **table["adapter"]}
    known = isinstance(before.get("lora_alpha"), int | float) and isinstance(before.get("r"), int) and before["r"]
    if known and isinstance(rank, int):
        alpha = before["lora_alpha"] * rank / before["r"]
        table["adapter"]["lora_alpha"] = int(alpha) if alpha.is_integer() else alpha


def _read(preset: str) -> dict[str, Any]:
    packaged, path = PRESETS / f"{preset}.toml", Path(preset)
    if preset in presets():
        text = packaged.read_text(encoding="utf-8")
    elif path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{preset} is not valid TOML: it is not UTF-8 ({error.reason})") from None
    else:
        raise ValueError(f"unknown preset {preset!r}; expected one of {', '.join(presets())}, or a path to a TOML file")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{preset} is not valid TOML ({error})") from None
    return table if preset in presets() else {name: _beside(path, value) for name, value in table.items()}


def _beside(preset: Path, value: Any) -> Any:
    """Replace each path that exists beside the preset, but not in the current folder, by its full path."""
    if isinstance(value, list):
        return [_beside(preset, item) for item in value]
    if not isinstance(value, str) or not value or is_known(value) or Path(value).expanduser().exists():
        return value
    beside = preset.resolve().parent / value
    return str(beside) if beside.exists() else value


def _check(preset: str, table: dict[str, Any]) -> Settings:
    values: dict[str, Any] = {**{name: kind() for name, (kind, _) in KINDS.items()}, "dtype": "float32", **table}
    for name, choices in {"method": (*methods(), "full"), "dtype": ("float32", "float16")}.items():
        if values[name] not in choices:
            raise ValueError(
                f"preset {preset}: expected `{name}` to be one of {', '.join(choices)}, got {values[name]!r}"
            )
    model = LlamaConfig if "model" in values else None
    kinds = {"model": model, "adapter": methods().get(values["method"]), "training": TrainingConfig}
    for name, kind in kinds.items():
        values[name] = _config(preset, values["method"] if name == "adapter" else name, kind, values.get(name, {}))
    if unknown := ", ".join(sorted(values.keys() - {field.name for field in dataclasses.fields(Settings)})):
        raise ValueError(f"preset {preset}: unknown entries: {unknown}")
    for name, (kind, words) in KINDS.items():
        if not isinstance(values[name], kind):
            raise ValueError(f"preset {preset}: expected `{name}` to be {words}, got {values[name]!r}")
    return Settings(**values)


def _config(preset: str, name: str, kind: Any, entries: Any) -> Any:
    """Build a config from one table of a preset; None if `kind` is None."""
    if kind is None:
        return None
    known = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(entries, dict):
        raise ValueError(f"preset {preset}: expected `{name}` to be a table, got {entries!r}")
    if unknown := ", ".join(sorted(entries.keys() - set(known))):
        raise ValueError(f"preset {preset}: unknown entries in [{name}]: {unknown}; valid entries: {', '.join(known)}")
    try:
        return kind(**entries)
    except TypeError as error:
        raise ValueError(f"preset {preset}: [{name}]: {error}") from None
