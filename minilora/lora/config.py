"""LoraConfig: what to adapt and how, under PEFT's names with PEFT's defaults and meanings."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from minilora.lora.checks import ENDING, LONGEST_SHOWN, check, one_line, shown
from minilora.nn.variants import AdapterError


@dataclass(frozen=True)
class LoraConfig:
    """How to adapt a model with LoRA (Hu et al. 2021).

    Attributes
    ----------
    r : rank of the update, the number of rows of A
    lora_alpha : α; the update is scaled by α/r
    lora_dropout : probability of zeroing an input of A while training
    target_modules : which Linears. A list: those whose path equals a name or ends in `.name`. A string: those whose
        whole path matches this regular expression. "all-linear": all but the output head
    exclude_modules : a list or regular expression of Linears to leave out all the same
    layers_to_transform : only the layers of these numbers
    rank_pattern, alpha_pattern : other values of r or α for modules whose path ends in a match of the key, a regular
        expression; the first key that matches counts
    use_rslora : scale by α/√r instead, which keeps large ranks learning (Kalajdzievski 2023)
    init_lora_weights : True: A uniform in ±1/√in, B zero. "gaussian": A normal with deviation 1/r, B zero.
        False: B uniform in ±1/√r as well, so that the adapter acts at once; for tests
    bias, modules_to_save : PEFT's names for training more than A and B; only "none" and None are implemented
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: list[str] | str = field(default_factory=lambda: ["q_proj", "v_proj"])
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    init_lora_weights: bool | str = True
    bias: str = "none"
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            object.__setattr__(self, entry.name, _own(getattr(self, entry.name)))
        check(self)

    @property
    def is_regex(self) -> bool:
        """Whether `target_modules` is a regular expression."""
        return isinstance(self.target_modules, str) and self.target_modules != "all-linear"

    @property
    def layers(self) -> list[int] | None:
        """`layers_to_transform` as a list, or None for all layers."""
        chosen = self.layers_to_transform
        return [chosen] if isinstance(chosen, int) else list(chosen) if chosen else None

    def rank(self, path: str) -> int:
        """r for the module at `path`."""
        return first_match(self.rank_pattern, path, self.r)

    def alpha(self, path: str) -> float:
        """α for the module at `path`."""
        return first_match(self.alpha_pattern, path, self.lora_alpha)

    def scaling(self, path: str) -> float:
        """s for the module at `path`: α/r, or α/√r with use_rslora."""
        r, alpha = self.rank(path), self.alpha(path)
        return alpha / math.sqrt(r) if self.use_rslora else alpha / r

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LoraConfig:
        """From the contents of PEFT's adapter_config.json.

        Raises AdapterError when it is no LoRA adapter, lacks r or lora_alpha (which PEFT would take to be 8), or uses
        an option that minilora does not implement.
        """
        if values.get("peft_type") != "LORA":
            raise AdapterError(f"expected an adapter of peft_type 'LORA', found {shown(values.get('peft_type'))}")
        absent = [name for name in ("r", "lora_alpha", "target_modules") if values.get(name) is None]
        if absent:
            raise AdapterError(f"the adapter's config lacks {', '.join(absent)}; without it the update is not defined")
        known = {field.name for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in known and name not in IGNORED and value and value != "none":
                option = one_line(name[:LONGEST_SHOWN])
                raise AdapterError(f"the adapter uses {option} = {shown(value)}, which minilora does not implement")
        # A null pattern or flag in the file means that there is none.
        return cls(**{name: values[name] for name in known if values.get(name) is not None})

    def to_dict(self) -> dict[str, Any]:
        """The contents of an adapter_config.json that PEFT reads."""
        targets = self.target_modules
        return {
            **dataclasses.asdict(self),
            "target_modules": targets if isinstance(targets, str) else sorted(targets),
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "use_dora": False,
        }


IGNORED = {
    "peft_type",
    "peft_version",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "auto_mapping",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
}
"""Entries of PEFT's config that do not change what an adapter computes here. Any other that is set is refused."""


def _own(value: Any) -> Any:
    """A copy that nobody else can change, made of Python's own types: a config is written as JSON."""
    if isinstance(value, dict):
        return {key: _own(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | range):
        return [_own(item) for item in (sorted(value, key=repr) if isinstance(value, set) else value)]
    return value.item() if isinstance(value, np.generic) else value


@lru_cache(maxsize=4_000)
def _ending(key: str) -> re.Pattern[str]:
    return re.compile(ENDING.format(key))


def matches(key: str, path: str) -> bool:
    """Whether the regular expression `key` matches the end of `path`, from a dot or its beginning on."""
    return _ending(key).match(path) is not None


def first_match(pattern: dict[str, Any], path: str, default: Any) -> Any:
    """The value of the first key that matches `path`."""
    return next((value for key, value in pattern.items() if matches(key, path)), default)
