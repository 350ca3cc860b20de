"""Module: the base class of layers and models.

The parameters of a module are the Tensors among its attributes and those of its submodules. The name of a parameter is
its path of attribute names, as in PyTorch: `model.layers.0.self_attn.q_proj.weight`. Attributes that begin with an
underscore are private and never parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import numpy as np

from minilora.autograd.tensor import Tensor
from minilora.backend import Array, copy_into, device_of, to_device
from minilora.messages import expect, some

_drawing: ContextVar[np.random.Generator | None] = ContextVar("drawing", default=None)


class AdapterError(ValueError):
    """Raised when an adapter cannot be created, found, loaded or used. The message gives the reason and the remedy."""


class Module:
    """Base class that holds parameters and submodules, and saves and loads state."""

    _rng: np.random.Generator | None = None

    @property
    def rng(self) -> np.random.Generator | None:
        """The random generator used by dropout in training mode; None in evaluation mode."""
        return self._rng and (_drawing.get() or self._rng)

    @rng.setter
    def rng(self, rng: np.random.Generator | None) -> None:
        self._rng = rng

    def __repr__(self) -> str:
        total, trainable = (sum(p.size for p in self.parameters(only)) for only in (False, True))
        return f"{type(self).__name__}({total:,} parameters, {trainable:,} trainable)"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{type(self).__name__} does not define forward()")

    def named_modules(self, path: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all its submodules, each with its dotted path."""
        yield path, self
        for name, value in self._parts():
            if isinstance(value, Module):
                yield from value.named_modules(f"{path}.{name}" if path else name)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter with its name. A shared parameter appears once, under its first name."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in module._parts():
                if isinstance(value, Tensor) and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def parameters(self, trainable: bool = False) -> list[Tensor]:
        """Return all parameters, or only those with requires_grad=True."""
        return [p for _, p in self.named_parameters() if p.requires_grad or not trainable]

    def state_dict(self) -> dict[str, Array]:
        """Return a dict of parameter names and arrays, without copying."""
        return {name: p.data for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy arrays into the parameters of the same names.

        Raises ValueError, before any parameter is changed, if a name is missing or unknown or a shape differs.
        """
        self.refuse_if_merged("load parameters")
        own = dict(self.named_parameters())
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            found = [
                f"{word} {some(names, 3)}" for word, names in (("missing", missing), ("unknown", unknown)) if names
            ]
            raise ValueError(f"the tensors do not match this model: {'; '.join(found)}")
        for name, p in own.items():
            if p.shape != state[name].shape:
                raise ValueError(f"{name} should have shape {p.shape}, found {state[name].shape}")
        for name, p in own.items():
            copy_into(p.data, state[name])

    def train(self, rng: np.random.Generator) -> None:
        """Switch to training mode, in which dropout is applied and draws from `rng`."""
        for _, module in self.named_modules():
            module.rng = rng

    def eval(self) -> None:
        """Switch to evaluation mode, which disables dropout and any other randomness."""
        for _, module in self.named_modules():
            module.rng = None

    def astype(self, dtype: Any) -> None:
        """Cast all floating-point parameters to a floating-point dtype, in place; float64 is for numerical checks."""
        self.refuse_if_merged("change the dtype")
        for p in self.parameters():
            if p.dtype.kind == "f":
                p.data, p.grad = p.data.astype(dtype), None

    def to(self, device: str) -> Self:
        """Move all parameters to a device, "cpu" or "cuda" (a GPU), in place. Returns this module.

        Create the optimizer afterwards, because it allocates its state on the device of the parameters. Raises
        DeviceError, before any parameter is moved, if CuPy or a GPU is missing.
        """
        self.refuse_if_merged("move to another device")
        for p in self.parameters():
            p.data, p.grad = to_device(p.data, device), None
        return self

    @property
    def device(self) -> str:
        """The device of the parameters: "cpu", or "cuda" for a GPU."""
        return next((device_of(p.data) for _, p in self.named_parameters()), "cpu")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The floating-point dtype of the parameters."""
        return next(p.dtype for _, p in self.named_parameters() if p.dtype.kind == "f")

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters attached to this module and its submodules."""
        below = (part.adapters for _, part in self._parts() if isinstance(part, Module))
        return list(dict.fromkeys(name for names in below for name in names))

    @property
    def active_adapters(self) -> dict[str, float]:
        """The active adapters of this module and its submodules, with their strengths."""
        below = [part.active_adapters for _, part in self._parts() if isinstance(part, Module)]
        return {name: strength for active in below for name, strength in active.items()}

    @property
    def merged(self) -> bool:
        """Whether adapters are merged into the weights of this module or a submodule."""
        return any(part.merged for _, part in self._parts() if isinstance(part, Module))

    def refuse_if_merged(self, action: str) -> None:
        """Raise AdapterError ("cannot {action} …") if adapters are merged: their effect is then part of the weights."""
        if self.merged:
            raise AdapterError(
                f"cannot {action} while adapters are merged into the weights; call lora.unmerge(model) first"
            )

    def _parts(self) -> Iterator[tuple[str, Tensor | Module]]:
        """Yield the parameters and modules among the attributes, including those in lists, tuples and dicts."""
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
    """Context manager in which modules in training mode draw from `rng` instead of their own generator.

    Other threads are not affected.
    """
    token = _drawing.set(rng)
    try:
        yield
    finally:
        _drawing.reset(token)


def check_module(model: Any) -> None:
    """Raise TypeError unless `model` is a Module."""
    expect(model, Module, "a model, as returned by load_model")


def forget_folder(model: Module) -> None:
    """Record that the weights of a model are no longer those of the folder that it was loaded from."""
    if "name_or_path" in vars(model):
        delattr(model, "name_or_path")
