"""Adapter folders in PEFT's layout: adapter_config.json and adapter_model.safetensors, read and written.

A tensor's key is `base_model.model.` + the module's path + `.` + the tensor's name in the file (`lora_A.weight`); a
tensor that all modules share has `base_model.` and its name. The adapter's name is not in it. Loading is strict where
PEFT is not: a missing or an extra tensor is an error. Adapter files are untrusted input: names, types and shapes are
compared with the model before any number is read.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minilora.adapters.attach import hosts, place
from minilora.adapters.method import Method, recognise
from minilora.adapters.targets import layer_of, module_name, select
from minilora.backend import Array, to_host
from minilora.files import read_header, read_json, read_tensors, regular_file, write_json, write_tensors
from minilora.messages import one_line, some
from minilora.nn import Module
from minilora.nn.module import AdapterError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SHARED, PREFIX, COPY = "base_model.", "base_model.model.", "base_layer"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of one number, by the types that an adapter can have
LONGEST_NAME = 100  # characters of a tensor's key
LARGEST_CONFIG = 1_000_000  # bytes
LARGEST_UNSEEN = 2**31  # bytes of tensors that are read without a model

Shape = tuple[int, ...]
Header = dict[str, tuple[str, Shape]]  # type and shape of each tensor in a file
Sizes = dict[str, dict[str, int]]  # the features of Linears by path: {"in": 192, "out": 512}


def save_adapter(
    model: Module, folder: str | Path, adapter: str = "default", *, base: str = "", dtype: str = "float32"
) -> None:
    """Write one adapter as a folder that PEFT opens.

    Parameters
    ----------
    base : the model's name or path, written as base_model_name_or_path
    dtype : "float32" or "float16", on disk

    Raises AdapterError, before anything is written, for an unknown adapter or dtype, or numbers not finite in it.
    """
    holders = hosts(model, adapter)
    if dtype not in ("float32", "float16"):
        raise AdapterError(f"expected dtype 'float32' or 'float16', got {dtype!r}")
    config = next(iter(holders.values())).config[adapter]
    tensors: dict[str, Array] = {}
    for path, host in holders.items():
        for name, tensor in host.updates[adapter].tensors.items():
            key = _key(config, "" if name in config.shapes("") else path, name)
            if key not in tensors:
                tensors[key] = _stored(to_host(tensor.data), dtype, f"{name} of {path}")
    if config.target_modules == "all-linear":  # PEFT stores the names that it stood for
        config = dataclasses.replace(config, target_modules=sorted({module_name(path) for path in holders}))
    write_tensors(Path(folder) / WEIGHTS, tensors)
    write_json(Path(folder) / CONFIG, {**config.to_dict(), "base_model_name_or_path": base or None})


def read_adapter(folder: str | Path) -> tuple[Method, dict[str, Array]]:
    """An adapter folder's config, and its tensors under their keys without the prefix.

    Raises AdapterError when the folder holds no adapter of a method that minilora implements, or its tensors are not
    finite numbers of the shapes that its config asks for, or take more than 2 GiB.
    """
    config, file, header = _look(folder)
    _checked(file, header, config, _inferred_sizes(config, header))
    size = sum(BYTES[kind] * math.prod(shape) for kind, shape in header.values())
    if size > LARGEST_UNSEEN:
        limit = f"more than the {LARGEST_UNSEEN:,} that are read without a model"
        raise AdapterError(f"{_name(file)} holds {size:,} bytes, {limit}; use load_adapter")
    tensors = _read(file)
    for key, array in tensors.items():
        _finite(file, key, array, np.float32)
    return config, {key.removeprefix(PREFIX): array for key, array in tensors.items()}


def load_adapter(model: Module, folder: str | Path, adapter: str = "default") -> None:
    """Attach an adapter from a folder, minilora's or PEFT's, and make it the active one.

    Raises AdapterError, before the model is changed, when the folder holds no adapter of a method that minilora
    implements, its tensors are missing, extra, of other shapes or not finite, or its targets do not exist in this
    model. Nothing in the folder is executed, and nothing outside it is read.
    """
    config, file, header = _look(folder)
    model.refuse_if_merged("load an adapter")
    targets = select(model, config)
    sizes = {path: {"in": linear.in_features, "out": linear.out_features} for path, linear in targets.items()}
    parts = _checked(file, header, config, sizes)
    copies = {path: key for path in targets if (key := _key(config, path, COPY)) in header}
    for path, key in copies.items():
        _refuse_another_base(file, path, header[key][1] == targets[path].dense().shape)
    tensors = _read(file)
    for path, key in copies.items():
        _refuse_another_base(file, path, np.array_equal(tensors[key], to_host(targets[path].dense().data)))
    arrays: dict[str, dict[str, Array]] = defaultdict(dict)
    for part in parts:
        arrays[part.path][part.name] = _finite(file, part.key, tensors[part.key], model.dtype)
    place(model, config, adapter, arrays)


def _look(folder: str | Path) -> tuple[Method, Path, Header]:
    """An adapter folder's config, its file of tensors, and the header of that file."""
    config = Path(folder) / CONFIG
    with _refusing(config):
        if not config.exists() and not config.is_symlink():
            raise AdapterError(f"{_name(Path(folder))} is no adapter folder: expected {CONFIG} and {WEIGHTS} in it")
        values = read_json(regular_file(folder, CONFIG), limit=LARGEST_CONFIG)
    try:
        options = recognise(values)
    except AdapterError as error:
        raise AdapterError(f"{_name(config)}: {error}") from None
    with _refusing(Path(folder) / WEIGHTS):
        file = regular_file(folder, WEIGHTS)
        return options, file, read_header(file)


def _read(file: Path) -> dict[str, Array]:
    with _refusing(file):
        return read_tensors(file)


@contextmanager
def _refusing(file: Path) -> Iterator[None]:
    """Raise ValueError and OSError as an AdapterError that names the file."""
    try:
        yield
    except AdapterError:
        raise
    except ValueError as error:
        raise AdapterError(one_line(str(error))) from None
    except OSError as error:
        raise AdapterError(f"{_name(file)} cannot be read: {error.strerror or error}; check its permissions") from None


def _key(config: Method, path: str, name: str) -> str:
    """The key of a tensor in a file; `path` is "" for one that all Linears share."""
    stored = f"{name}.weight" if name == COPY else name + config.suffix.get(name, "")
    return f"{PREFIX}{path}.{stored}" if path else SHARED + stored


def place_of(key: str) -> tuple[str, str]:
    """The path and the tensor's name in a key, with or without the prefix."""
    path, _, name = key.removesuffix(".weight").removeprefix(PREFIX).rpartition(".")
    return ("" if f"{path}." == SHARED else path), name


def _name(path: Path) -> str:
    return one_line(str(path))


class ExpectedTensor(NamedTuple):
    """A tensor that a file should hold: its Linear, name and key, its symbolic shape and its actual one."""

    path: str
    name: str
    key: str
    symbols: tuple[str | int, ...]
    shape: Shape


def _parts(config: Method, sizes: Sizes) -> Iterator[ExpectedTensor]:
    """The tensors that a file should hold for Linears of these sizes, including the shared ones."""
    largest = {side: max((size[side] for size in sizes.values()), default=0) for side in ("in", "out")}
    for path, size in {**sizes, "": largest}.items():
        for name, symbols in config.shapes(path).items():
            shape = tuple(n if isinstance(n, int) else size[n] for n in symbols)
            yield ExpectedTensor(path, name, _key(config, path, name), symbols, shape)


def _inferred_sizes(config: Method, header: Header) -> Sizes:
    """The sizes of the adapted Linears, inferred from the first tensor that has the dimension."""
    sizes: Sizes = {}
    for key, (_, shape) in header.items():
        path, name = place_of(key)
        symbols = config.shapes(path).get(name, ()) if len(key) <= LONGEST_NAME else ()
        if symbols and key == _key(config, path, name):
            size = sizes.setdefault(path, {"in": 0, "out": 0})
            known = {s: n for s, n in zip(symbols, shape, strict=False) if isinstance(s, str) and not size[s]}
            size.update(known)
    return sizes


def _checked(file: Path, header: Header, config: Method, sizes: Sizes) -> list[ExpectedTensor]:
    """Check that a header has exactly the tensors that the config requires, and return these."""
    expected = {part.key: part for part in _parts(config, sizes)}
    copies = {_key(config, path, COPY) for path in sizes}
    missing, extra = sorted(expected.keys() - header.keys()), sorted(header.keys() - expected.keys() - copies)
    if missing:
        hint = _layers(missing, header)
        raise AdapterError(f"{_name(file)} lacks {_some(missing)}, which its config asks for{hint}")
    if extra:
        hint = _layers(extra, expected)
        raise AdapterError(f"{_name(file)} holds {_some(extra)}, which its config does not ask for{hint}")
    for key, part in expected.items():
        if (found := header[key][1]) != part.shape:
            hint = _what_differs(part, found)
            raise AdapterError(f"{_name(file)}: {_some([key])} should have shape {part.shape}, found {found}; {hint}")
    for key, (kind, _) in header.items():
        if kind not in BYTES:
            kinds = ", ".join(BYTES)
            raise AdapterError(f"{_name(file)}: {_some([key])} should have one of the types {kinds}, found {kind}")
    if not expected:
        raise AdapterError(f"{_name(file)} holds no tensors")
    return list(expected.values())


def _what_differs(part: ExpectedTensor, found: Shape) -> str:
    """Explain a wrong shape: some dimensions come from the config, others from the base."""
    wrong = set()
    if len(found) == len(part.shape):
        wrong = {type(s) for s, n, m in zip(part.symbols, part.shape, found, strict=True) if n != m}
    if wrong == {str}:
        return "the adapter was made for a base of other dimensions"
    if wrong == {int}:
        return "the rank in its config is not that of its tensors"
    return "the adapter was made for another base"


def _layers(names: list[str], others: Mapping[str, object]) -> str:
    """A hint where the two sets of keys have no layer in common."""
    here, there = ({layer_of(key) for key in keys} - {None} for keys in (names, others))
    return "; it was made for a base with another number of layers" if here and there and not here & there else ""


def _stored(array: Array, dtype: str, what: str) -> Array:
    with np.errstate(over="ignore"):
        stored = array.astype(dtype)
    if not np.isfinite(stored).all():
        raise AdapterError(f"{what} holds numbers that are not finite in {dtype}; nothing was written")
    return stored


def _finite(file: Path, key: str, array: Array, dtype: np.dtype | type) -> Array:
    """The array in `dtype`. Raises AdapterError for numbers that are not finite in it."""
    with np.errstate(all="ignore"):
        fitted = array.astype(dtype)
    if not np.isfinite(fitted).all():
        raise AdapterError(f"{_name(file)}: {key} holds numbers that are not finite in {fitted.dtype}")
    return fitted


def _refuse_another_base(file: Path, path: str, same: bool) -> None:
    """PEFT also saves the frozen weight of an adapted output head; it must equal this model's."""
    if not same:
        raise AdapterError(f"{_name(file)} is for another base: its copy of {path}.weight differs from this model's")


def _some(names: list[str]) -> str:
    """The first name, truncated, and the number of the others."""
    return one_line(some([names[0][:LONGEST_NAME], *names[1:]]))
