"""Model snapshots that are unaffected when adapters of the original are merged, deleted or replaced.

Generating a text takes many steps. If an adapter is merged, deleted or replaced in the meantime, the rest of the text
must not change, so decoding works on a copy of the modules. The weights are shared, because copying them would cost too
much. An adapter has few parameters, so these are copied when a text first uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from minilora.adapters.attach import hosts
from minilora.adapters.update import Update
from minilora.autograd.tensor import Tensor
from minilora.backend import Array
from minilora.nn import Llama, Module


def snapshot(model: Llama) -> Llama:
    """Return a copy of all modules and Tensors that shares their arrays and the Update objects of adapters."""
    return _copied(model, {}, lambda array: array, keep=Update)


def copy_adapters(model: Llama, adapters: Iterable[str]) -> None:
    """Replace adapters of a snapshot with copies that have their own arrays."""
    seen: dict[int, Any] = {}  # tensors shared by several updates stay shared
    for host in hosts(model).values():
        for name in adapters:
            if name in host.updates:
                host.updates[name] = _copied(host.updates[name], seen, lambda array: array.copy())


def _copied(part: Any, seen: dict[int, Any], array: Callable[[Array], Array], keep: type | tuple[()] = ()) -> Any:
    """Return a deep copy of a module's structure; an object that occurs twice is copied once."""
    if id(part) in seen:
        return seen[id(part)][0]
    if isinstance(part, keep):
        return part
    twin: Any
    if isinstance(part, Tensor):
        twin = Tensor(array(part.data))
    elif isinstance(part, Module):
        twin = object.__new__(type(part))
        vars(twin).update({name: _copied(value, seen, array, keep) for name, value in vars(part).items()})
    elif type(part) is dict:
        twin = {name: _copied(value, seen, array, keep) for name, value in part.items()}
    elif type(part) in (list, tuple) or hasattr(part, "_make"):  # `_make` constructs named tuples
        twin = getattr(part, "_make", type(part))([_copied(value, seen, array, keep) for value in part])
    else:
        return part
    seen[id(part)] = twin, part  # keep the original alive, so that no other object gets its id
    return twin
