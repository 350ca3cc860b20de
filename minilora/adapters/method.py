"""The base class of all methods: a config that initialises, builds, saves and loads adapters.

A method is a dataclass of its settings, under PEFT's names with PEFT's defaults. It says which tensors each adapted
Linear gets and of what shapes, initialises them, builds an `Update` from them, and reads and writes its
`adapter_config.json`. `@method` registers it by name; everything else in minilora finds it there. LoRA's is in
`lora/config.py`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from minilora.adapters.expressions import ENDING, Matcher
from minilora.adapters.hook import Hook
from minilora.adapters.settings import check_layers, check_names_or_none, check_settings, check_targets, setting
from minilora.adapters.update import Update
from minilora.autograd.tensor import Tensor
from minilora.backend import Array
from minilora.messages import LONGEST_SHOWN, one_line, shown
from minilora.nn import Linear, Module
from minilora.nn.module import AdapterError
from minilora.registry import MODULES

Arrays: TypeAlias = Mapping[str, Mapping[str, Array]]
"""The arrays of an adapter: {path of a Linear: {name of a tensor: array}}. The path "" has those that all its Linears
share."""

_METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """The settings that all methods have.

    Attributes
    ----------
    target_modules : which Linears. A list: those whose path equals a name or ends in `.name`. A string: those whose
        whole path matches this regular expression. "all-linear": all but the output head
    exclude_modules : a list or regular expression of Linears to exclude
    layers_to_transform : indices of the layers to adapt; None for all
    """

    target_modules: list[str] | str = setting(["q_proj", "v_proj"], check_targets)
    exclude_modules: list[str] | str | None = setting(None, check_names_or_none)
    layers_to_transform: list[int] | int | None = setting(None, check_layers)

    name: ClassVar[str]
    """Its name in minilora and on the command line."""
    label: ClassVar[str]
    """Its name in text for people."""
    recognised_by: ClassVar[dict[str, Any]]
    """The entries of an adapter_config.json that identify the method."""
    required: ClassVar[tuple[str, ...]] = ("target_modules",)
    """The entries that a file must contain: PEFT would silently use a default, which need not be the right value."""
    suffix: ClassVar[dict[str, str]] = {}
    """What is appended to a tensor's name in a file, such as `.weight`."""

    def __post_init__(self) -> None:
        check_settings(self)
        object.__setattr__(self, "_matcher", Matcher())
        if self.layers_to_transform is not None and self.is_regex:
            raise AdapterError(
                "layers_to_transform goes with a list of names; with a regular expression, select the layers in the "
                "expression"
            )

    @abstractmethod
    def shapes(self, path: str) -> dict[str, tuple[str | int, ...]]:
        """The shape of each tensor of the Linear at `path`; "in" and "out" mean its numbers of features.

        For the path "": the shapes of the tensors that all Linears share; "in" and "out" mean the largest of any.
        """

    @abstractmethod
    def draw(self, path: str, base: Linear, rng: np.random.Generator) -> dict[str, Array]:
        """Initial values of the tensors of the Linear at `path`."""

    def draw_shared(self, bases: Mapping[str, Linear], rng: np.random.Generator) -> dict[str, Array]:
        """Initial values of the tensors that all Linears in `bases` share."""
        return {}

    @abstractmethod
    def make_update(self, path: str, tensors: Mapping[str, Tensor]) -> Update:
        """Build the update of the Linear at `path` from its own and the shared tensors."""

    def hook(self, model: Module, adapter: str) -> Hook | None:
        """The training hook for the active adapter of this name in `model`, if the method has one."""
        return None

    def summary(self, paths: Sequence[str]) -> str:
        """A one-line summary for adapters of the modules at `paths`."""
        return f"a {self.label} adapter"

    @property
    def patterns(self) -> dict[str, dict[str, Any]]:
        """The settings that are dicts from regular expressions to values, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, dict)}

    @property
    def is_regex(self) -> bool:
        """Whether `target_modules` is a regular expression."""
        return isinstance(self.target_modules, str) and self.target_modules != "all-linear"

    @property
    def layers(self) -> list[int] | None:
        """`layers_to_transform` as a list, or None for all layers."""
        chosen = self.layers_to_transform
        return [chosen] if isinstance(chosen, int) else list(chosen) if chosen else None

    def matches(self, expression: str, path: str) -> bool:
        """Whether a regular expression matches all of `path`, within the config's time limit."""
        matcher: Matcher = vars(self)["_matcher"]
        return matcher.matches(expression, path)

    def matches_end(self, key: str, path: str) -> bool:
        """Whether the key of a pattern matches all of `path` or what follows one of its dots."""
        return self.matches(ENDING.format(key), path)

    def first_match(self, pattern: Mapping[str, Any], path: str, default: Any) -> Any:
        """The value of the first key that matches `path`."""
        return next((value for key, value in pattern.items() if self.matches_end(key, path)), default)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From the contents of PEFT's adapter_config.json.

        Raises AdapterError when the file belongs to another method, lacks a required entry, or uses an option that
        minilora does not implement.
        """
        for name, value in cls.recognised_by.items():
            if values.get(name) != value:
                raise AdapterError(f"expected an adapter of {name} {value!r}, found {shown(values.get(name))}")
        if absent := [name for name in cls.required if values.get(name) is None]:
            raise AdapterError(f"the adapter's config lacks {', '.join(absent)}, which the update depends on")
        known = {field.name for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in known | IGNORED | cls.recognised_by.keys() and value and value != "none":
                option = one_line(name[:LONGEST_SHOWN])
                raise AdapterError(f"the adapter uses {option} = {shown(value)}, which minilora does not implement")
        # A null setting in the file means the default.
        return cls(**{name: values[name] for name in known if values.get(name) is not None})

    def to_dict(self) -> dict[str, Any]:
        """The contents of an adapter_config.json that PEFT reads."""
        targets = self.target_modules
        return {
            **dataclasses.asdict(self),
            "target_modules": targets if isinstance(targets, str) else sorted(targets),
            "task_type": "CAUSAL_LM",
            "inference_mode": True,
            **self.recognised_by,
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


def method(cls: type[Method]) -> type[Method]:
    """Register a method under its name. Its module should be listed in `registry.py`."""
    other = _METHODS.setdefault(cls.name, cls)
    if other.__qualname__ != cls.__qualname__:
        raise ValueError(f"there is a method {cls.name!r} already, {other.__qualname__}; choose another name")
    _METHODS[cls.name] = cls
    return cls


def methods() -> dict[str, type[Method]]:
    """Every method by name."""
    for module in MODULES:
        import_module(module)
    return _METHODS


def recognise(values: Mapping[str, Any]) -> Method:
    """The config in an adapter_config.json. Raises AdapterError where no registered method matches."""
    knowing = [cls for cls in methods().values() if values.items() >= cls.recognised_by.items()]
    if not knowing:
        types = sorted({cls.recognised_by["peft_type"] for cls in methods().values()})
        expected = " or ".join(map(repr, types))
        raise AdapterError(f"expected an adapter of peft_type {expected}, found {shown(values.get('peft_type'))}")
    return max(knowing, key=lambda cls: len(cls.recognised_by)).from_dict(values)
