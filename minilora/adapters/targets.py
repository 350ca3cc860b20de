"""Selection of the Linear layers to adapt, by PEFT's rules. For a new adapter, every target must match a layer."""

from __future__ import annotations

import re

from minilora.adapters.host import AdaptedLinear
from minilora.adapters.method import Method
from minilora.messages import shown
from minilora.nn import Linear, Module
from minilora.nn.module import AdapterError, check_module


def select(model: Module, config: Method, strict: bool = True) -> dict[str, Linear]:
    """Return the Linear layers to adapt, by path; for a layer that is already adapted, its base layer.

    Raises AdapterError if no layer is selected or, if `strict`, if any target, layer index or pattern key matches no
    layer. The message describes the layers of the model.
    """
    check_module(model)
    linears = {path: linear for path, module in model.named_modules() if path and (linear := _linear(module))}
    if not linears:
        raise AdapterError("found no Linear inside this model; a single Linear must be an attribute of a Module")
    chosen = {
        path: linear
        for path, linear in linears.items()
        if _is_target(path, config) and not _named(path, config, config.exclude_modules) and _in_layers(path, config)
    }
    if strict or not chosen:
        _refuse_what_matches_nothing(model, config, list(linears), list(chosen))
    return chosen


def layer_of(path: str) -> int | None:
    """Return the layer index in a path, such as 3 for `model.layers.3.mlp.up_proj`, or None if there is none."""
    numbers = [int(part) for part in path.split(".") if part.isdecimal() and len(part) < 10]
    return numbers[0] if numbers else None


def module_name(path: str) -> str:
    """Return the last part of a path, such as `q_proj`."""
    return path.rpartition(".")[2]


def _linear(module: Module) -> Linear | None:
    if isinstance(module, AdaptedLinear):
        return module.base
    return module if isinstance(module, Linear) else None


def _is_target(path: str, config: Method) -> bool:
    if config.target_modules == "all-linear":
        return module_name(path) != "lm_head"
    return _named(path, config, config.target_modules)


def _in_layers(path: str, config: Method) -> bool:
    """Return whether `layers_to_transform` includes `path`; a target given as a full path is always included."""
    by_path = not isinstance(config.target_modules, str) and path in config.target_modules
    if config.layers is None or by_path:
        return True
    if not config.layers_pattern:
        return layer_of(path) in config.layers
    names, layers = config.layers_pattern, "|".join(map(str, config.layers))
    stacks = names if isinstance(names, str) else "|".join(f"(?:{name})" for name in names)
    return config.matches(rf"(?:.*\.)?(?:{stacks})\.(?:{layers})\..*", path)


def _named(path: str, config: Method, names: list[str] | str | None) -> bool:
    """Return whether a list of names or a regular expression matches `path`."""
    if not names:
        return False
    if isinstance(names, str):
        return config.matches(names, path)
    return any(path == name or path.endswith(f".{name}") for name in names)


def _refuse_what_matches_nothing(model: Module, config: Method, linears: list[str], chosen: list[str]) -> None:
    names = sorted({module_name(path) for path in linears})
    there_are = f"this model's linear modules are named {', '.join(names)} (full path of one: {linears[0]})"
    targets = config.target_modules
    for name in [] if targets == "all-linear" else [targets] if isinstance(targets, str) else targets:
        if not any(_named(path, config, name if config.is_regex else [name]) for path in linears):
            words = [word for word in re.split(r"[\s,]+", name) if word]
            plain = set(re.sub(r"\W", "", word) for word in words) == set(words)
            advice = f"to select layers by name, write {shown(words)}" if plain else r"such as '.*\.(q_proj|v_proj)'"
            hint = f"; a string is a regular expression that must match the full path; {advice}"
            if not config.is_regex:
                others = {module_name(path) for path, _ in model.named_modules()}
                hint = "; it is a module of another kind" if name in others else ""
            raise AdapterError(f"target {shown(name)} matches no linear module{hint}; {there_are}")
    numbers = {n for n in map(layer_of, linears) if n is not None}
    for layer in config.layers or []:
        if layer not in numbers:
            there = f"layers 0 to {max(numbers)}" if numbers else "no numbered layers"
            raise AdapterError(f"layers_to_transform selects layer {shown(layer)}, but this model has {there}")
    if not chosen:
        raise AdapterError(f"no modules are left to adapt after exclude_modules and layers_to_transform; {there_are}")
    for name, pattern in config.patterns.items():
        for key in pattern:
            if not any(config.matches_end(key, path) for path in chosen):
                raise AdapterError(
                    f"key {shown(key)} of {name} matches none of the adapted modules (full path of one: {chosen[0]})"
                )
