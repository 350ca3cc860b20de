"""The tensors of an adapter file: their names and shapes, checked against the config and the base model.

A tensor's key is `base_model.model.` + the module's path + `.` + the tensor's name in the file (`lora_A.weight`); for a
tensor shared by all modules, it is `base_model.` + the tensor's name. Keys do not contain the adapter's name.

A file opens if all tensors of the adapter are there and the others leave the base unchanged: copies of base weights
that equal the model's, and tensors that are used only in training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minilora.adapters.method import MERGE, Method
from minilora.adapters.targets import layer_of
from minilora.autograd.tensor import Tensor
from minilora.backend import Array, to_host
from minilora.files import ELEMENT_BYTES, rounded
from minilora.messages import one_line, some
from minilora.nn import Module
from minilora.nn.module import AdapterError

SHARED, PREFIX = "base_model.", "base_model.model."
LONGEST_NAME = 100  # characters of a tensor's key

Shape = tuple[int, ...]
Header = Mapping[str, tuple[str, Shape]]  # dtype and shape of each tensor in a file
Sizes = dict[str, dict[str, int]]  # feature sizes of each Linear layer by path: {"in": 192, "out": 512}


class ExpectedTensor(NamedTuple):
    """A tensor that a file must contain: its layer's path, its name and key, and its symbolic and its actual shape."""

    path: str
    name: str
    key: str
    symbols: tuple[str | int, ...]
    shape: Shape


@dataclass(frozen=True)
class Contents:
    """What a valid file contains: the tensors of the adapter, and the keys of copies of base weights."""

    tensors: list[ExpectedTensor]
    copies: list[str]


def tensor_key(config: Method, path: str, name: str) -> str:
    """Return the key of a tensor in a file; `path` is "" for a tensor shared by all layers."""
    stored = name + config.suffix.get(name, "")
    return f"{PREFIX}{path}.{stored}" if path else SHARED + stored


def place_of(key: str) -> tuple[str, str]:
    """Return the module path and the tensor name of a key, with or without the prefix."""
    path, _, name = key.removesuffix(".weight").removeprefix(PREFIX).rpartition(".")
    return ("" if f"{path}." == SHARED else path), name


def check_header(file: Path, header: Header, config: Method, sizes: Sizes) -> Contents:
    """Return the contents of a file, after checking that it has exactly the tensors that the config requires.

    Copies of base weights and tensors that are used only in training may be there as well. Raises AdapterError; the
    message includes a fix where one is known.
    """
    expected = {part.key: part for part in _expected(config, sizes)}
    if missing := sorted(expected.keys() - header.keys()):
        hint = _other_names(missing[0], header) or _other_layers(missing, header)
        raise AdapterError(f"{one_line(str(file))} is missing {_some(missing)}, which its config requires{hint}")
    others = sorted(key for key in header.keys() - expected.keys() if not config.training_only & set(key.split(".")))
    if extra := [key for key in others if not _copied_module(key)]:
        hint = _what_it_adapts(extra) or _other_layers(extra, expected)
        raise AdapterError(f"{one_line(str(file))} contains {_some(extra)}, which its config does not define{hint}")
    for key, part in expected.items():
        if (found := header[key][1]) != part.shape:
            should = f"should have shape {part.shape}, found {found}"
            raise AdapterError(f"{one_line(str(file))}: {_some([key])} {should}; {_what_differs(part, found)}")
    for key in (*expected, *others):
        if (kind := header[key][0]) not in ELEMENT_BYTES:
            kinds = ", ".join(ELEMENT_BYTES)
            raise AdapterError(
                f"{one_line(str(file))}: {_some([key])} should have one of the dtypes {kinds}, found {kind}; convert it"
            )
    if not expected:
        raise AdapterError(f"{one_line(str(file))} contains no tensors")
    return Contents(list(expected.values()), others)


def inferred_sizes(config: Method, header: Header) -> Sizes:
    """Infer the feature sizes of the adapted layers, each from the first tensor with such a dimension."""
    sizes: Sizes = {}
    for key, (_, shape) in header.items():
        path, name = place_of(key)
        symbols = config.shapes(path).get(name, ()) if len(key) <= LONGEST_NAME else ()
        if symbols and key == tensor_key(config, path, name):
            size = sizes.setdefault(path, {"in": 0, "out": 0})
            known = {s: n for s, n in zip(symbols, shape, strict=False) if isinstance(s, str) and not size[s]}
            size.update(known)
    return sizes


def check_copies(
    file: Path, copies: Iterable[str], model: Module, header: Header, tensors: Mapping[str, Array]
) -> None:
    """Check that the copies of base weights in a file equal the model's; without `tensors`, check only the shapes.

    PEFT saves copies for an adapted or resized output head or embedding, and for modules_to_save. They are compared in
    the dtype of the file, or in the model's if it is less precise.
    """
    modules = dict(model.named_modules())
    for key in copies:
        kind, shape = header[key]
        weight = getattr(modules.get(_copied_module(key) or ""), "weight", None)
        base = to_host(weight.data) if isinstance(weight, Tensor) else None
        if base is None or base.shape != shape or (key in tensors and not _equal(base, tensors[key], kind)):
            name = f"{one_line(_copied_module(key) or key)[:LONGEST_NAME]}.weight"
            what = "differs from this model's" if base is not None else "is of a module that this model does not have"
            raise AdapterError(
                f"{one_line(str(file))} is for a different base model, or replaces a weight of its base: its copy of "
                f"{name} {what}; open the base that it was trained on, or {MERGE}"
            )


def _equal(base: Array, copy: Array, kind: str) -> bool:
    return np.array_equal(rounded(base, kind), copy) or np.array_equal(base, copy.astype(base.dtype))


def _copied_module(key: str) -> str | None:
    """Return the path of the module whose weight has a copy at this key, or None for any other tensor."""
    path, _, name = key.removeprefix(PREFIX).rpartition(".")
    if not key.startswith(PREFIX) or name != "weight" or not path or "lora_" in path:
        return None
    return re.sub(r"\.(base_layer|original_module|modules_to_save(\.default)?)$", "", path)


def _expected(config: Method, sizes: Sizes) -> Iterator[ExpectedTensor]:
    """Yield the tensors that a file must contain for layers of these sizes, including the shared tensors."""
    largest = {side: max((size[side] for size in sizes.values()), default=0) for side in ("in", "out")}
    for path, size in {**sizes, "": largest}.items():
        for name, symbols in config.shapes(path).items():
            shape = tuple(n if isinstance(n, int) else size[n] for n in symbols)
            yield ExpectedTensor(path, name, tensor_key(config, path, name), symbols, shape)


def _what_differs(part: ExpectedTensor, found: Shape) -> str:
    """Explain a shape mismatch: some dimensions come from the config, others from the base model."""
    if 0 in found:
        return (
            "the tensor is empty, as a trainer that shards the weights (ZeRO-3, FSDP) saves it; gather the weights and "
            "save the adapter again"
        )
    wrong = set()
    if len(found) == len(part.shape):
        wrong = {type(s) for s, n, m in zip(part.symbols, part.shape, found, strict=True) if n != m}
    if wrong == {str}:
        return "the adapter was made for a base model with different dimensions"
    if wrong == {int}:
        return "the rank in its config does not match its tensors"
    return "the adapter was made for a different base model"


def _what_it_adapts(keys: list[str]) -> str:
    """Return a hint if one of the keys belongs to a part of a model that minilora does not adapt."""
    for ending, part in UNSUPPORTED_ENDINGS.items():
        if any(key.endswith(ending) for key in keys):
            return f": it {part}, which minilora does not implement; {MERGE}"
    return ""


UNSUPPORTED_ENDINGS = {"lora_embedding_A": "adapts an embedding", ".bias": "trains biases"}


def _other_names(missing: str, header: Header) -> str:
    """Return a hint if the file has a tensor for the same module and role as `missing` under another name."""
    same = [key for key in header if len(key) <= 2 * LONGEST_NAME and _core(key) == _core(missing)]
    if not same:
        return ""
    return (
        f"; it has {one_line(same[0])} instead. Save the adapter with PEFT's save_pretrained, from a model of the same "
        "class as its base"
    )


def _core(key: str) -> str:
    """Return a key without what wrappers and other programs add: prefixes, `.default` and `.weight`."""
    key = re.sub(r"(lora_[A-Za-z_]+?)(\.default|\.weight)*$", r"\1", key)
    return re.sub(r"^((base_model|model|module|_orig_mod|_fsdp_wrapped_module|language_model|transformer)\.)*", "", key)


def _other_layers(names: list[str], others: Iterable[str]) -> str:
    """Return a hint if the two sets of keys have no layer in common, otherwise an empty string."""
    here, there = ({layer_of(key) for key in keys} - {None} for keys in (names, others))
    hint = "; it was made for a base model with a different number of layers"
    return hint if here and there and not here & there else ""


def _some(names: list[str]) -> str:
    """Return the first name, truncated, and the number of remaining names."""
    return one_line(some([names[0][:LONGEST_NAME], *names[1:]]))
