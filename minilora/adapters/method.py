"""The base class of all adaptation methods.

A method is a dataclass of its settings, with PEFT's names and defaults. It defines the tensors of each adapted Linear
layer and their shapes, initializes them, builds an `Update` from them, and converts its settings to and from the
contents of `adapter_config.json`. `@method` registers the class by name, and the rest of minilora looks it up with
`methods()`. LoRA is defined in `lora/config.py`.
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
from minilora.adapters.settings import (
    check_expressions,
    check_layers,
    check_names_or_none,
    check_settings,
    check_targets,
    one_of,
    setting,
)
from minilora.adapters.update import Update
from minilora.autograd.tensor import Tensor
from minilora.backend import Array
from minilora.messages import LONGEST_SHOWN, one_line, shown
from minilora.nn import Linear, Module
from minilora.nn.module import AdapterError
from minilora.registry import MODULES

Arrays: TypeAlias = Mapping[str, Mapping[str, Array]]
"""The arrays of an adapter: {path of a Linear layer: {name of a tensor: array}}. The path "" has the arrays that all
layers share."""

MERGE = "merge the adapter into its base with PEFT (merge_and_unload) and open the merged model"

_METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """The settings that all methods have.

    Attributes
    ----------
    target_modules : the Linear layers to adapt. A list of names selects the paths that equal a name or end in `.name`.
        A string is a regular expression that must match the entire path. "all-linear" selects all but the output head
    exclude_modules : Linear layers to exclude: a list of names or a regular expression
    layers_to_transform : indices of the layers to adapt; None for all
    layers_pattern : names, or regular expressions, of the module lists that layers_to_transform indexes, such as
        "layers"; None for any list
    task_type : PEFT's name for the kind of model; it has no effect here
    """

    target_modules: list[str] | str = setting(["q_proj", "v_proj"], check_targets)
    exclude_modules: list[str] | str | None = setting(None, check_names_or_none)
    layers_to_transform: list[int] | int | None = setting(None, check_layers)
    layers_pattern: list[str] | str | None = setting(None, check_expressions)
    task_type: str | None = setting("CAUSAL_LM", one_of("CAUSAL_LM", None))

    name: ClassVar[str]
    """The name in minilora and on the command line, such as "lora"."""
    label: ClassVar[str]
    """The name in messages, such as "LoRA"."""
    recognized_by: ClassVar[dict[str, Any]]
    """The entries of an adapter_config.json that identify the method."""
    required: ClassVar[tuple[str, ...]] = ("target_modules",)
    """Required entries of adapter_config.json; for a missing one, PEFT silently uses a default that may be wrong."""
    suffix: ClassVar[dict[str, str]] = {}
    """The suffix of each tensor's name in a file, such as `.weight`; none by default."""
    without_effect: ClassVar[frozenset[str]] = frozenset()
    """Entries of adapter_config.json that do not affect the output of a saved adapter."""
    training_only: ClassVar[frozenset[str]] = frozenset()
    """Names of tensors in a file that do not affect the output of the adapter."""
    ways_out: ClassVar[dict[str, str]] = {}
    """What to do about entries that minilora does not implement, if the adapter cannot be merged in PEFT."""

    def __post_init__(self) -> None:
        check_settings(self)
        object.__setattr__(self, "_matcher", Matcher())
        if self.layers_to_transform is not None and self.is_regex:
            raise AdapterError(
                "layers_to_transform cannot be combined with a regular expression in target_modules; select the layers "
                "in the expression instead"
            )
        if self.layers_pattern and self.layers is None:
            raise AdapterError(
                "layers_pattern requires layers_to_transform; set it as well, or leave out layers_pattern"
            )

    @abstractmethod
    def shapes(self, path: str) -> dict[str, tuple[str | int, ...]]:
        """Return the shape of each tensor of the Linear layer at `path`; "in" and "out" stand for its feature sizes.

        For the path "", return the shapes of the shared tensors; "in" and "out" then stand for the largest feature
        sizes of all adapted layers.
        """

    @abstractmethod
    def draw(self, path: str, base: Linear, rng: np.random.Generator) -> dict[str, Array]:
        """Return initial values for the tensors of the Linear layer at `path`."""

    def draw_shared(self, bases: Mapping[str, Linear], rng: np.random.Generator) -> dict[str, Array]:
        """Return initial values for the tensors shared by all the layers in `bases`."""
        return {}

    @abstractmethod
    def make_update(self, path: str, tensors: Mapping[str, Tensor]) -> Update:
        """Build the update of the Linear layer at `path` from its own and the shared tensors."""

    def hook(self, model: Module, adapter: str) -> Hook | None:
        """Return the training hook for the active adapter of this name in `model`, or None if the method has none."""
        return None

    def summary(self, paths: Sequence[str]) -> str:
        """Return a one-line summary of an adapter attached to the modules at `paths`."""
        return f"a {self.label} adapter"

    @property
    def patterns(self) -> dict[str, dict[str, Any]]:
        """The settings that map regular expressions to values, by name."""
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
        """Return whether a regular expression matches the entire `path`, within the time limit of this config."""
        matcher: Matcher = vars(self)["_matcher"]
        return matcher.matches(expression, path)

    def matches_end(self, key: str, path: str) -> bool:
        """Return whether a pattern key matches the entire `path` or a suffix of it that follows a dot."""
        return self.matches(ENDING.format(key), path)

    def first_match(self, pattern: Mapping[str, Any], path: str, default: Any) -> Any:
        """Return the value of the first key of `pattern` that matches `path`, or `default` if none does."""
        return next((value for key, value in pattern.items() if self.matches_end(key, path)), default)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Create a config from the contents of an adapter_config.json written by PEFT or minilora.

        Raises AdapterError if the file belongs to a different method, has no value for a required entry, or uses an
        option that minilora does not implement.
        """
        for name, value in cls.recognized_by.items():
            if values.get(name) != value:
                raise AdapterError(f"expected an adapter with {name} {value!r}, found {shown(values.get(name))}")
        if absent := [name for name in cls.required if values.get(name) is None]:
            raise AdapterError(f"the adapter's config is missing {', '.join(absent)}, which the update depends on")
        ignored = IGNORED | cls.without_effect
        known = {field.name for field in dataclasses.fields(cls)} - ignored
        for name, value in values.items():
            if name not in known | ignored | cls.recognized_by.keys() and value and value != "none":
                option, way_out = one_line(name[:LONGEST_SHOWN]), cls.ways_out.get(name, MERGE)
                raise AdapterError(
                    f"the adapter uses {option} = {shown(value)}, which minilora does not implement; {way_out}"
                )
        # A null entry in the file means the default.
        return cls(**{name: values[name] for name in known if values.get(name) is not None})

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of an adapter_config.json that PEFT can read."""
        targets = self.target_modules
        return {
            **dataclasses.asdict(self),
            "target_modules": targets if isinstance(targets, str) else sorted(targets),
            "inference_mode": True,
            **self.recognized_by,
        }


IGNORED = {
    "peft_type",
    "peft_version",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "auto_mapping",
}
"""Entries of PEFT's config that do not affect the output of an adapter in minilora. Any other entry that is set is
rejected."""


def method(cls: type[Method]) -> type[Method]:
    """Register a method under its name. Its module must be listed in `registry.MODULES`."""
    other = _METHODS.setdefault(cls.name, cls)
    if other.__qualname__ != cls.__qualname__:
        raise ValueError(f"the method name {cls.name!r} is taken by {other.__qualname__}; choose another name")
    _METHODS[cls.name] = cls
    return cls


def methods() -> dict[str, type[Method]]:
    """Import all registered modules and return the methods by name."""
    for module in MODULES:
        import_module(module)
    return _METHODS


def recognize(values: Mapping[str, Any]) -> Method:
    """Create the config of the method that an adapter_config.json identifies.

    Raises AdapterError if no registered method matches, and in the cases listed for `Method.from_dict`.
    """
    knowing = [cls for cls in methods().values() if values.items() >= cls.recognized_by.items()]
    if not knowing:
        types = sorted({cls.recognized_by["peft_type"] for cls in methods().values()})
        expected = " or ".join(map(repr, types))
        found = shown(values.get("peft_type"))
        raise AdapterError(
            f"expected an adapter with peft_type {expected}, found {found}; if PEFT can merge it, {MERGE}"
        )
    return max(knowing, key=lambda cls: len(cls.recognized_by)).from_dict(values)
