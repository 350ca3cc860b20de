"""Put adapters into a model, choose which act, and take them out again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minilora.lora.config import AdapterError, LoraConfig
from minilora.lora.linear import LoraLinear
from minilora.lora.select import select
from minilora.nn import Linear, Module
from minilora.nn.variants import Choice, strengths


def inject(model: Module, config: LoraConfig, adapter: str = "default", *, rng: np.random.Generator) -> None:
    """Freeze the model, attach a fresh adapter to the Linears that `config` means, and make it the active one.

    No parameter of the model changes its name or value; the adapter's are `<path>.lora_A.<adapter>` and
    `<path>.lora_B.<adapter>`. Raises AdapterError, before anything is changed, when a target matches nothing, the name
    is taken or not usable, or adapters are merged.
    """
    refuse_if_merged(model, "attach another adapter")
    if not isinstance(adapter, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", adapter):
        raise AdapterError(f"an adapter's name is made of letters, digits, - and _; got {adapter!r}")
    if adapter in adapters(model):
        raise AdapterError(
            f"the model already has an adapter {adapter!r}; choose another name, or take it out with "
            f"lora.delete_adapter(model, {adapter!r})"
        )
    targets = select(model, config)
    for p in model.parameters():
        p.requires_grad = False
    for path, linear in targets.items():
        if not isinstance(linear, LoraLinear):
            linear = LoraLinear(linear)
            _replace(model, path, linear)
        linear.attach(adapter, config, path, rng)
    set_active(model, adapter)


def adapters(model: Module) -> list[str]:
    """The names of the attached adapters."""
    return list(dict.fromkeys(name for _, module in lora_modules(model) for name in module.config))


def lora_modules(model: Module) -> list[tuple[str, LoraLinear]]:
    """The adapted Linears, each with its path."""
    return [(path, module) for path, module in model.named_modules() if isinstance(module, LoraLinear)]


def set_active(model: Module, choice: Choice) -> None:
    """Choose the adapters that act and train: one by name, several with strengths, or none.

    A strength multiplies an adapter's update: 0 is off, 1 is as trained, and anything else is allowed.
    """
    refuse_if_merged(model, "choose other adapters")
    chosen = strengths(choice, adapters(model))
    for _, module in lora_modules(model):
        for name in module.config:
            if (name in chosen) != (name in module.active):  # what was active already keeps what its user froze
                module.lora_A[name].requires_grad = module.lora_B[name].requires_grad = name in chosen
        module.active = {name: s for name, s in chosen.items() if name in module.config}


def active(model: Module) -> dict[str, float]:
    """The acting adapters and their strengths."""
    return {name: s for _, module in lora_modules(model) for name, s in module.active.items()}


@contextmanager
def disabled(model: Module) -> Iterator[None]:
    """Inside this block the model is the base, merged or not: `with lora.disabled(model): ...`. What trains stays."""
    before = [(module, module.active, module.merged) for _, module in lora_modules(model)]
    for module, _, _ in before:
        module.unmerge()
        module.active = {}
    try:
        yield
    finally:
        for module, strengths, merged in before:
            module.unmerge()
            module.active = strengths
            if merged:
                module.merge()


def delete_adapter(model: Module, adapter: str) -> None:
    """Take one adapter out. A Linear that has no other is plain again. Raises AdapterError for an unknown name."""
    refuse_if_merged(model, "delete an adapter")
    refuse_unknown(model, [adapter])
    for path, module in lora_modules(model):
        for table in (module.lora_A, module.lora_B, module.scaling, module.config, module.active):
            table.pop(adapter, None)
        if not module.config:
            _replace(model, path, Linear(module.weight))


def unload(model: Module) -> None:
    """Take all adapters out: every Linear is plain again, with its original weight, and the model is trainable."""
    for path, module in lora_modules(model):
        module.unmerge()
        _replace(model, path, Linear(module.weight))
    for p in model.parameters():
        p.requires_grad = True


def refuse_if_merged(model: Module, wish: str) -> None:
    """Raise AdapterError when adapters are merged: what acts is then fixed in the weights."""
    if any(module.merged for _, module in lora_modules(model)):
        raise AdapterError(f"cannot {wish} while adapters are merged into the weights; call lora.unmerge(model) first")


def refuse_unknown(model: Module, names: list[str]) -> None:
    """Raise AdapterError, listing what there is, for the name of an adapter that the model does not have."""
    strengths(dict.fromkeys(names, 1.0), adapters(model))


def _replace(model: Module, path: str, module: Linear) -> None:
    """Put `module` where `path` leads: to an attribute, or to a place in a list or dict."""
    holder: Any = model
    *parents, last = path.split(".")
    for name in parents:
        holder = _part(holder, name)
    module.rng = _part(holder, last).rng  # in training or not, as before
    if isinstance(holder, Module):
        setattr(holder, last, module)
    else:
        holder[int(last) if isinstance(holder, list) else last] = module


def _part(holder: Any, name: str) -> Any:
    if isinstance(holder, Module):
        return getattr(holder, name)
    return holder[name] if isinstance(holder, dict) else holder[int(name)]
