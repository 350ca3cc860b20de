"""The settings of a run, saved with the result. `loading.py` loads them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilora.adapters.files import packaged_voice
from minilora.adapters.method import Method
from minilora.backend import Array
from minilora.data import load_ids
from minilora.data.corpora import is_known
from minilora.files import write_atomically
from minilora.nn import LlamaConfig
from minilora.training import TrainingConfig

RUN = "run.toml"

CHANGEABLE = {  # short name of a setting: (table, key in that table)
    "corpus": ("", "corpus"),
    "ascii": ("", "ascii"),
    "encoding": ("", "encoding"),
    "base": ("", "base"),
    "start": ("", "start"),
    "method": ("", "method"),
    "dtype": ("", "dtype"),
    "rank": ("adapter", "r"),
    "alpha": ("adapter", "lora_alpha"),
    "dropout": ("adapter", "lora_dropout"),
    "targets": ("adapter", "target_modules"),
    "layers": ("model", "num_hidden_layers"),
    "hidden": ("model", "hidden_size"),
    "intermediate": ("model", "intermediate_size"),
    "heads": ("model", "num_attention_heads"),
    "kv_heads": ("model", "num_key_value_heads"),
    **{field.name: ("training", field.name) for field in dataclasses.fields(TrainingConfig)},
}


@dataclass(frozen=True)
class Settings:
    """All settings of a run.

    Attributes
    ----------
    corpus : names or paths of the training texts
    ascii : whether texts from files are converted to ASCII; otherwise, they are kept as they are
    encoding : encoding of texts from files, "" for UTF-8
    base : folder of the base model, "" for the packaged one
    start : adapter folder or voice that training starts from, "" for a new adapter
    method : "full", or the name of an adaptation method such as "lora"
    dtype : dtype of the saved result, "float32" or "float16"; training is in float32
    model : shape of a model to train from scratch; None to start from `base`
    adapter : settings of the adapter; None if the method is "full"
    training : the training configuration
    """

    corpus: list[str]
    ascii: bool
    encoding: str
    base: str
    start: str
    method: str
    dtype: str
    model: LlamaConfig | None
    adapter: Method | None
    training: TrainingConfig

    def __repr__(self) -> str:
        t, start = self.training, self.start or self.base or "the packaged base"
        kind = "a new model" if self.model else f"{self.method} on {start}"
        return (
            f"Settings({kind}, trained on {', '.join(self.corpus)}: {t.iters} steps of {t.batch} x {t.context} tokens, "
            f"lr {t.lr:g})"
        )

    def load_ids(self) -> tuple[Array, Array]:
        """Load the corpora; return the training and validation token ids, each (n,)."""
        return load_ids(self.corpus, ascii=self.ascii or None, encoding=self.encoding or None)

    def absolute(self) -> Settings:
        """Return the same settings, with existing paths made absolute."""
        corpus = [name if is_known(name) else _absolute(name) for name in self.corpus]
        start = self.start if packaged_voice(self.start) else _absolute(self.start)
        return dataclasses.replace(self, corpus=corpus, base=_absolute(self.base), start=start)

    def save(self, folder: str | Path) -> Path:
        """Write the settings to `run.toml` in `folder`. The file is itself a valid preset."""
        return write_atomically(Path(folder) / RUN, self.to_toml())

    def to_toml(self) -> str:
        """Return the settings as TOML, with full paths."""
        flat = dataclasses.asdict(self.absolute())
        model, adapter, training = (flat.pop(name) for name in ("model", "adapter", "training"))
        lines = [f"{key} = {_toml(value)}" for key, value in flat.items()]
        for name, table in {"model": model, self.method: adapter, "training": training}.items():
            if table:
                lines += ["", f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in table.items() if v is not None)]
        return "\n".join(lines) + "\n"


def differences(one: Settings, other: Settings) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ between two runs, by their names in CHANGEABLE, with both values."""
    one, other = one.absolute(), other.absolute()
    pairs = {name: (_value(one, *place), _value(other, *place)) for name, place in CHANGEABLE.items()}
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b}


def _value(settings: Settings, table: str, entry: str) -> Any:
    return getattr(getattr(settings, table) if table else settings, entry, None)


def _absolute(path: str) -> str:
    found = Path(path).expanduser()
    return str(found.resolve()) if path and found.exists() else path


def _toml(value: Any) -> str:
    """Format a value as TOML. For strings, numbers, booleans and lists, JSON notation is valid TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
