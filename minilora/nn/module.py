"""Module: something with parameters, and other modules inside it.

A module's parameters are the Tensors among its attributes; a parameter's name is the path of attribute names that
leads to it, as in PyTorch: `model.layers.0.self_attn.q_proj.weight`. Attributes that begin with an underscore are
private and never parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import numpy as np

from minilora.autograd.tensor import Array, Tensor
from minilora.backend import copy_into, device_of, to_device

_dice: ContextVar[np.random.Generator | None] = ContextVar("dice", default=None)


class Module:
    """Base class: names, finds, saves and loads parameters."""

    _rng: np.random.Generator | None = None

    @property
    def rng(self) -> np.random.Generator | None:
        """The source of randomness while training, which dropout draws from; None means evaluation."""
        return self._rng and (_dice.get() or self._rng)

    @rng.setter
    def rng(self, rng: np.random.Generator | None) -> None:
        self._rng = rng

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{type(self).__name__} defines no forward")

    def named_modules(self, path: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, each with its dotted path."""
        yield path, self
        for name, value in self._parts():
            if isinstance(value, Module):
                yield from value.named_modules(f"{path}.{name}" if path else name)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter once, under the first name that leads to it."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in module._parts():
                if isinstance(value, Tensor) and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def parameters(self, trainable: bool = False) -> list[Tensor]:
        """All parameters, or only those that want a gradient."""
        return [p for _, p in self.named_parameters() if p.requires_grad or not trainable]

    def state_dict(self) -> dict[str, Array]:
        """Name -> array, without copying."""
        return {name: p.data for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy arrays into the parameters of the same names.

        Raises ValueError, before anything is changed, when a name is missing or unknown or a shape differs.
        """
        self._refuse_if_fixed()
        own = dict(self.named_parameters())
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise ValueError(f"the tensors do not fit this model: {_listing('missing', missing, 'unknown', unknown)}")
        for name, p in own.items():
            if p.shape != state[name].shape:
                raise ValueError(f"{name} should have shape {p.shape}, found {state[name].shape}")
        for name, p in own.items():
            copy_into(p.data, state[name])

    def train(self, rng: np.random.Generator) -> None:
        """Training mode: dropout acts, drawing from `rng`."""
        for _, module in self.named_modules():
            module.rng = rng

    def eval(self) -> None:
        """Evaluation mode: no randomness anywhere."""
        for _, module in self.named_modules():
            module.rng = None

    def astype(self, dtype: Any) -> None:
        """Turn every parameter into another floating-point type, in place; float64 is for checking."""
        self._refuse_if_fixed()
        for p in self.parameters():
            p.data, p.grad = p.data.astype(dtype), None

    def to(self, device: str) -> Self:
        """Move every parameter to a device, "cpu" or "cuda" (a GPU), in place; returns this module.

        Make an optimizer afterwards: it keeps its own arrays where the parameters are. Raises DeviceError, before
        anything is changed, where CuPy or a GPU is missing.
        """
        self._refuse_if_fixed()
        for p in self.parameters():
            p.data, p.grad = to_device(p.data, device), None
        return self

    @property
    def device(self) -> str:
        """Where the parameters are: "cpu", or "cuda" for a GPU."""
        return next((device_of(p.data) for _, p in self.named_parameters()), "cpu")

    @property
    def fixed(self) -> str:
        """Why the parameters cannot be replaced at the moment; empty when they can."""
        return ""

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of the adapters that this module itself holds; see `variants.py`."""
        return ()

    def _refuse_if_fixed(self) -> None:
        """Raise ValueError when a module's parameters cannot be replaced now."""
        for path, module in self.named_modules():
            if module.fixed:
                raise ValueError(f"the parameters of {path} cannot be replaced: {module.fixed}")

    def _parts(self) -> Iterator[tuple[str, Tensor | Module]]:
        """The parameters and modules directly in this one; lists and dicts of them are looked into."""
        for name, value in vars(self).items():
            if name.startswith("_"):
                continue
            parts: Iterable[tuple[str, Any]] = [(name, value)]
            if isinstance(value, dict):
                parts = ((f"{name}.{key}", part) for key, part in value.items())
            elif isinstance(value, list | tuple):
                parts = ((f"{name}.{i}", part) for i, part in enumerate(value))
            for part_name, part in parts:
                if isinstance(part, Tensor | Module):
                    yield part_name, part


@contextmanager
def drawing_from(rng: np.random.Generator) -> Iterator[None]:
    """Inside this block, and in this thread alone, modules in training draw from `rng` instead of their own."""
    token = _dice.set(rng)
    try:
        yield
    finally:
        _dice.reset(token)


def _listing(*labelled: Any) -> str:
    """'missing a, b, c and 4 more; unknown d': labels and their non-empty lists, shortened."""
    words = []
    for label, names in zip(labelled[::2], labelled[1::2], strict=True):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            words.append(f"{label} {', '.join(names[:3])}{more}")
    return "; ".join(words)
