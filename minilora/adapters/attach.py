"""Attach adapters to a model, activate or disable them, and remove them."""

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
from minilora.messages import expect, shown
from minilora.nn import Module
from minilora.nn.choice import Choice, strengths
from minilora.nn.module import AdapterError, check_module


def inject(model: Module, config: Method, adapter: str = "default", *, rng: np.random.Generator | int) -> None:
    """Freeze the model, attach a new adapter to the Linear layers that `config` selects, and make it the active one.

    The model's parameters keep their names and values. The adapter's parameters are named `<path>.<tensor>.<adapter>`;
    for LoRA, `<path>.lora_A.<adapter>` and `<path>.lora_B.<adapter>`. Raises AdapterError, before anything is changed,
    if a target matches no module, the name is taken or invalid, or adapters are merged.
    """
    check_name(model, adapter)
    rng, targets = np.random.default_rng(rng), select(model, config)
    shared = config.draw_shared(targets, rng)
    drawn = {path: config.draw(path, linear, rng) for path, linear in targets.items()}
    place(model, config, adapter, {"": shared, **drawn})


def place(model: Module, config: Method, adapter: str, arrays: Arrays) -> None:
    """Freeze the model, attach an adapter with the given arrays, and make it the active one.

    The arrays are copied to the model's device in its dtype. `inject`, `load_adapter` and `mix` all call this function.
    Raises AdapterError, before anything is changed, if the name is taken or invalid, the method rejects the arrays, or
    adapters are merged.
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
    """Raise AdapterError if the name is taken or invalid, or if adapters are merged."""
    check_module(model)
    model.refuse_if_merged("attach another adapter")
    if not isinstance(adapter, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", adapter):
        raise AdapterError(f"expected an adapter name of ASCII letters, digits, - and _, got {shown(adapter)}")
    if adapter in model.adapters:
        raise AdapterError(
            f"the model already has an adapter {adapter!r}; choose another name, or remove it with "
            f"lora.delete_adapter(model, {adapter!r})"
        )


def adapters(model: Module) -> list[str]:
    """Return the names of the attached adapters."""
    check_module(model)
    return model.adapters


def hosts(model: Module, adapter: str | None = None) -> dict[str, AdaptedLinear]:
    """Return the adapted Linear layers by path: all of them, or those with an update of `adapter`.

    Raises AdapterError for an unknown adapter; the message lists the attached ones.
    """
    check_module(model)
    found = {path: module for path, module in model.named_modules() if isinstance(module, AdaptedLinear)}
    if adapter is None:
        return found
    strengths(adapter, model.adapters)
    return {path: host for path, host in found.items() if adapter in host.updates}


def set_active(model: Module, choice: Choice) -> None:
    """Set the active, trainable adapters: one name, a dict of names and strengths, or None for none.

    A strength multiplies the update of an adapter. It can be any finite number: 0 turns the adapter off, 1 is the
    adapter as trained.
    """
    check_module(model)
    model.refuse_if_merged("change the active adapters")
    chosen = strengths(choice, model.adapters)
    for host in hosts(model).values():
        host.activate(chosen)


def active(model: Module) -> dict[str, float]:
    """Return the active adapters with their strengths."""
    check_module(model)
    return model.active_adapters


@contextmanager
def disabled(model: Module) -> Iterator[None]:
    """Context manager that turns all adapters off, merged or not: `with lora.disabled(model): ...`.

    Inside the block, the model computes the output of the base model. `requires_grad` does not change.
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
    """Remove one adapter; layers left without adapters become plain again. Raises AdapterError for an unknown name."""
    check_module(model)
    expect(adapter, str, "the name of an adapter")
    model.refuse_if_merged("delete an adapter")
    for path, host in hosts(model, adapter).items():
        host.remove(adapter)
        if not host.updates:
            replace(model, path, host.base)


def unload(model: Module) -> None:
    """Remove all adapters: the layers become plain again, with their original weights; all parameters are trainable."""
    for path, host in hosts(model).items():
        replace(model, path, host.base)
    for p in model.parameters():
        p.requires_grad = True


def replace(model: Module, path: str, module: Module) -> None:
    """Replace the submodule at `path`, which is an attribute or an entry of a list or dict."""
    refuse_single_layer(path)
    parent, _, last = path.rpartition(".")
    holder = _find(model, parent)
    module.rng = _part(holder, last).rng  # keep training or evaluation mode
    if isinstance(holder, Module):
        setattr(holder, last, module)
    else:
        holder[int(last) if isinstance(holder, list) else last] = module


def refuse_single_layer(path: str) -> None:
    """Raise AdapterError if `path` is empty: the model itself is then an adapted Linear, not part of any module."""
    if not path:
        raise AdapterError("expected a model, got a single adapted Linear; make it an attribute of a Module first")


def _refuse_fixed_place(model: Module, path: str) -> None:
    """Raise AdapterError if the module at `path` cannot be replaced because it is in a tuple."""
    if isinstance(_find(model, path.rpartition(".")[0]), tuple):
        raise AdapterError(f"{path} is in a tuple and cannot be replaced; keep the modules in a list")


def _host(model: Module, path: str) -> AdaptedLinear:
    """Return the adapted Linear at `path`; a plain Linear is wrapped first."""
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
