"""Attach adapters to a model, choose which are active, and remove them again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from minilora.adapters.host import AdaptedLinear
from minilora.adapters.method import Arrays, Method
from minilora.adapters.targets import select
from minilora.autograd.tensor import Tensor
from minilora.backend import Array, to_device
from minilora.nn import Module
from minilora.nn.choice import Choice, strengths
from minilora.nn.module import AdapterError


def inject(model: Module, config: Method, adapter: str = "default", *, rng: np.random.Generator) -> None:
    """Freeze the model, attach a fresh adapter to the Linears that `config` selects, and make it the active one.

    No parameter of the model changes its name or value; the adapter's are `<path>.<tensor>.<adapter>`, for LoRA
    `<path>.lora_A.<adapter>` and `<path>.lora_B.<adapter>`. Raises AdapterError, before anything is changed, when a
    target matches nothing, the name is taken or not usable, or adapters are merged.
    """
    check_name(model, adapter)
    targets = select(model, config)
    shared = config.draw_shared(targets, rng)
    drawn = {path: config.draw(path, linear, rng) for path, linear in targets.items()}
    place(model, config, adapter, {"": shared, **drawn})


def place(model: Module, config: Method, adapter: str, arrays: Arrays) -> None:
    """Freeze the model, attach an adapter of the given arrays, and make it the active one.

    The arrays are copied, in the model's dtype and to its device. `inject`, `load_adapter` and `mix` all end here.
    Raises AdapterError, before anything is changed, for a name that is taken or not usable, arrays that the method
    rejects, or when adapters are merged.
    """
    check_name(model, adapter)
    dtype, device = model.dtype, model.device

    def frozen(tensors: Mapping[str, Array]) -> dict[str, Tensor]:
        return {name: Tensor(to_device(array.astype(dtype), device)) for name, array in tensors.items()}

    shared = frozen(arrays.get("", {}))
    updates = {path: config.make_update(path, {**frozen(own), **shared}) for path, own in arrays.items() if path}
    for path in updates:
        _refuse_fixed_place(model, path)
    for p in model.parameters():
        p.requires_grad = False
    for path, update in updates.items():
        _host(model, path).attach(adapter, update, config)
    set_active(model, adapter)


def check_name(model: Module, adapter: str) -> None:
    """Raise AdapterError unless an adapter of this name can be attached now."""
    model.refuse_if_merged("attach another adapter")
    if not isinstance(adapter, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", adapter):
        raise AdapterError(f"an adapter's name is made of letters, digits, - and _; got {adapter!r}")
    if adapter in model.adapters:
        raise AdapterError(
            f"the model already has an adapter {adapter!r}; choose another name, or take it out with "
            f"lora.delete_adapter(model, {adapter!r})"
        )


def adapters(model: Module) -> list[str]:
    """The names of the attached adapters."""
    return model.adapters


def hosts(model: Module, adapter: str | None = None) -> dict[str, AdaptedLinear]:
    """The adapted Linears by path: all, or those that hold `adapter`.

    Raises AdapterError for the name of an unknown adapter; the message lists the known ones.
    """
    found = {path: module for path, module in model.named_modules() if isinstance(module, AdaptedLinear)}
    if adapter is None:
        return found
    strengths(adapter, model.adapters)
    return {path: host for path, host in found.items() if adapter in host.updates}


def set_active(model: Module, choice: Choice) -> None:
    """Set the active, trainable adapters: one by name, several with strengths, or None for none.

    A strength multiplies what an adapter adds: 0 is off, 1 is as trained, and any finite number is allowed.
    """
    model.refuse_if_merged("choose other adapters")
    chosen = strengths(choice, model.adapters)
    for host in hosts(model).values():
        host.activate(chosen)


def active(model: Module) -> dict[str, float]:
    """The active adapters and their strengths."""
    return {name: s for host in hosts(model).values() for name, s in host.active.items()}


@contextmanager
def disabled(model: Module) -> Iterator[None]:
    """Inside this block the model is the base, merged or not: `with lora.disabled(model): ...`.

    `requires_grad` does not change.
    """
    before = [(host, host.active, host.merged) for host in hosts(model).values()]
    for host, _, _ in before:
        host.active, host.merged_weight = {}, None
    try:
        yield
    finally:
        for host, active, merged in before:
            host.active = {name: strength for name, strength in active.items() if name in host.updates}
            host.merged_weight = host.sum_weights() if merged else None


def delete_adapter(model: Module, adapter: str) -> None:
    """Remove one adapter. A Linear that has no other becomes plain. Raises AdapterError for an unknown name."""
    model.refuse_if_merged("delete an adapter")
    for path, host in hosts(model, adapter).items():
        host.remove(adapter)
        if not host.updates:
            replace(model, path, host.base)


def unload(model: Module) -> None:
    """Remove all adapters: every Linear is plain, with its original weight, and the model is trainable."""
    for path, host in hosts(model).items():
        replace(model, path, host.base)
    for p in model.parameters():
        p.requires_grad = True


def replace(model: Module, path: str, module: Module) -> None:
    """Replace the submodule at `path`, an attribute or an entry of a list or dict."""
    parent, _, last = path.rpartition(".")
    holder = _find(model, parent)
    module.rng = _part(holder, last).rng  # in training or not, as before
    if isinstance(holder, Module):
        setattr(holder, last, module)
    else:
        holder[int(last) if isinstance(holder, list) else last] = module


def _refuse_fixed_place(model: Module, path: str) -> None:
    """Raise AdapterError where a module cannot be replaced."""
    if isinstance(_find(model, path.rpartition(".")[0]), tuple):
        raise AdapterError(f"{path} is in a tuple, where no module can be replaced; keep the modules in a list")


def _host(model: Module, path: str) -> AdaptedLinear:
    """The adapted Linear at `path`; a plain one there is wrapped first."""
    module = _find(model, path)
    if not isinstance(module, AdaptedLinear):
        module = AdaptedLinear(module)
        replace(model, path, module)
    return module


def _find(model: Module, path: str) -> Any:
    found: Any = model
    for name in path.split(".") if path else []:
        found = _part(found, name)
    return found


def _part(holder: Any, name: str) -> Any:
    if isinstance(holder, Module):
        return getattr(holder, name)
    return holder[name] if isinstance(holder, dict) else holder[int(name)]
