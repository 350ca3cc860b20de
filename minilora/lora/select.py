"""Which Linears a LoraConfig means. PEFT's rules, but a name that matches nothing is an error."""

from __future__ import annotations

import re

from minilora.lora.checks import shown
from minilora.lora.config import AdapterError, LoraConfig, matches
from minilora.nn import Linear, Module


def select(model: Module, config: LoraConfig) -> dict[str, Linear]:
    """The Linears to adapt, by path.

    Raises AdapterError, listing what there is, when a target, a layer or a pattern matches nothing.
    """
    linears = {path: module for path, module in model.named_modules() if isinstance(module, Linear) and path}
    if not linears:
        raise AdapterError("found no Linear inside this model; a Linear alone must be an attribute of a Module")
    chosen = {
        path: module
        for path, module in linears.items()
        if _is_target(path, config) and not _named(path, config.exclude_modules) and _in_layers(path, config)
    }
    _refuse_what_matches_nothing(config, list(linears), list(chosen))
    return chosen


def layer_of(path: str) -> int | None:
    """The number of the layer that a path lies in: 3 for `model.layers.3.mlp.up_proj`; None outside the layers."""
    numbers = [int(part) for part in path.split(".") if part.isdecimal() and len(part) < 10]
    return numbers[0] if numbers else None


def leaf(path: str) -> str:
    """A path's last name: `q_proj`."""
    return path.rpartition(".")[2]


def _is_target(path: str, config: LoraConfig) -> bool:
    if config.target_modules == "all-linear":
        return leaf(path) != "lm_head"
    return _named(path, config.target_modules)


def _in_layers(path: str, config: LoraConfig) -> bool:
    """Whether `layers_to_transform` lets `path` through. Naming its whole path, such as `lm_head`, always does."""
    by_path = not isinstance(config.target_modules, str) and path in config.target_modules
    return config.layers is None or by_path or layer_of(path) in config.layers


def _named(path: str, names: list[str] | str | None) -> bool:
    """Whether a list of names or a regular expression means `path`."""
    if not names:
        return False
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names)


def _refuse_what_matches_nothing(config: LoraConfig, linears: list[str], chosen: list[str]) -> None:
    names = sorted({leaf(path) for path in linears})
    there_are = f"this model's linear modules are named {', '.join(names)}, for example {linears[0]}"
    targets = config.target_modules
    for name in [] if targets == "all-linear" else [targets] if isinstance(targets, str) else targets:
        if not any(_named(p, name if config.is_regex else [name]) for p in linears):
            raise AdapterError(f"target {shown(name)} matches no linear module; {there_are}")
    numbers = {n for n in map(layer_of, linears) if n is not None}
    for layer in config.layers or []:
        if layer not in numbers:
            there = f"layers 0 to {max(numbers)}" if numbers else "no numbered layers"
            raise AdapterError(f"layers_to_transform asks for layer {shown(layer)}; this model has {there}")
    if not chosen:
        raise AdapterError(f"nothing is left to adapt after exclude_modules and layers_to_transform; {there_are}")
    for name, pattern in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for key in pattern:
            if not any(matches(key, path) for path in chosen):
                raise AdapterError(
                    f"{name} has the key {shown(key)}, which matches no adapted module, such as {chosen[0]}"
                )
