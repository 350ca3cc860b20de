"""Reading and writing adapter folders in PEFT's format: adapter_config.json and adapter_model.safetensors.

A tensor's key is `base_model.model.` + the module's path + `.` + the tensor's name in the file (`lora_A.weight`); for a
tensor shared by all modules, it is `base_model.` + the tensor's name. Keys do not contain the adapter's name. Loading
is stricter than in PEFT: a missing or unexpected tensor is an error. Adapter files are untrusted input: names, dtypes
and shapes are checked against the model before any tensor data is read.
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

from minilora.adapters.attach import hosts, place, refuse_single_layer
from minilora.adapters.method import Method, recognize
from minilora.adapters.targets import layer_of, module_name, select
from minilora.assets import VOICES
from minilora.backend import Array, to_host
from minilora.files import read_header, read_json, read_tensors, regular_file, write_json, write_tensors
from minilora.messages import one_line, some
from minilora.nn import Module
from minilora.nn.module import AdapterError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SHARED, PREFIX, COPY = "base_model.", "base_model.model.", "base_layer"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # per element, for each supported dtype
LONGEST_NAME = 100  # characters of a tensor's key
LARGEST_CONFIG = 1_000_000  # bytes
LARGEST_UNSEEN = 2**31  # bytes of tensor data that can be read without a model

Shape = tuple[int, ...]
Header = dict[str, tuple[str, Shape]]  # dtype and shape of each tensor in a file
Sizes = dict[str, dict[str, int]]  # feature sizes of each Linear layer by path: {"in": 192, "out": 512}


def save_adapter(
    model: Module, folder: str | Path, adapter: str = "default", *, base: str = "", dtype: str = "float32"
) -> None:
    """Save one adapter as a folder that PEFT can load.

    Parameters
    ----------
    base : name or path of the base model, saved as base_model_name_or_path
    dtype : dtype of the saved tensors, "float32" or "float16"

    Raises AdapterError, before anything is written, if the adapter or dtype is unknown or a value is not finite in this
    dtype.
    """
    holders = hosts(model, adapter)
    if dtype not in ("float32", "float16"):
        raise AdapterError(f"expected dtype 'float32' or 'float16', got {dtype!r}")
    config = next(iter(holders.values())).config[adapter]
    tensors: dict[str, Array] = {}
    for path, host in holders.items():
        refuse_single_layer(path)
        for name, tensor in host.updates[adapter].tensors.items():
            key = _key(config, "" if name in config.shapes("") else path, name)
            if key not in tensors:
                tensors[key] = _stored(to_host(tensor.data), dtype, f"{name} of {path}")
    if config.target_modules == "all-linear":  # like PEFT, store the names of the selected modules
        config = dataclasses.replace(config, target_modules=sorted({module_name(path) for path in holders}))
    write_tensors(Path(folder) / WEIGHTS, tensors)
    write_json(Path(folder) / CONFIG, {**config.to_dict(), "base_model_name_or_path": base or None})


def read_adapter(folder: str | Path) -> tuple[Method, dict[str, Array]]:
    """Return the config of an adapter folder, and its tensors by key, without the prefix `base_model.model.`.

    Raises AdapterError if the folder does not contain an adapter of a method that minilora implements, or if its
    tensors do not have the shapes that its config requires, contain values that are not finite in float32, or take more
    than 2 GiB.
    """
    config, file, header = _look(folder)
    _checked(file, header, config, _inferred_sizes(config, header))
    size = sum(BYTES[kind] * math.prod(shape) for kind, shape in header.values())
    if size > LARGEST_UNSEEN:
        limit = f"more than the {LARGEST_UNSEEN:,} that can be read without a model"
        raise AdapterError(f"{_name(file)} contains {size:,} bytes of tensor data, {limit}; use load_adapter")
    tensors = _read(file)
    for key, array in tensors.items():
        _finite(file, key, array, np.float32)
    return config, {key.removeprefix(PREFIX): array for key, array in tensors.items()}


def load_adapter(model: Module, folder: str | Path, adapter: str | None = None) -> None:
    """Attach an adapter from a folder saved by minilora or PEFT, and make it the active one.

    `folder` can also be the name of a packaged voice. By default, the adapter's name is the name of the voice, or
    "default" for a folder.

    Raises AdapterError, before the model is changed, if the folder does not contain an adapter of a method that
    minilora implements, its targets do not exist in this model, a tensor is missing, unexpected, of the wrong shape
    or not finite, the name is taken or invalid, or adapters are merged. Nothing in the folder is executed, and nothing
    outside it is read.
    """
    if adapter is None:
        adapter = str(folder) if _voice(folder) else "default"
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
    """Return the config of an adapter folder, the path of its tensor file, and the header of that file."""
    folder = _voice(folder) or Path(folder)
    config = folder / CONFIG
    with _refusing(config):
        if not config.exists() and not config.is_symlink():
            voices = "" if folder.exists() else f", or the name of a packaged voice: {', '.join(_voices())}"
            raise AdapterError(
                f"{_name(folder)} is not an adapter folder: expected a folder with {CONFIG} and {WEIGHTS}{voices}"
            )
        values = read_json(regular_file(folder, CONFIG), limit=LARGEST_CONFIG)
    try:
        options = recognize(values)
    except AdapterError as error:
        raise AdapterError(f"{_name(config)}: {error}") from None
    with _refusing(folder / WEIGHTS):
        file = regular_file(folder, WEIGHTS)
        return options, file, read_header(file)


def _voices() -> dict[str, Path]:
    return {config.parent.name: config.parent for config in sorted(VOICES.glob(f"*/{CONFIG}"))}


def _voice(folder: str | Path) -> Path | None:
    """The folder of a packaged voice, if `folder` is the name of one and not an existing path."""
    voice = _voices().get(str(folder))
    return None if voice and Path(folder).exists() else voice


def _read(file: Path) -> dict[str, Array]:
    with _refusing(file):
        return read_tensors(file)


@contextmanager
def _refusing(file: Path) -> Iterator[None]:
    """Context manager that converts ValueError and OSError to an AdapterError that names the file."""
    try:
        yield
    except AdapterError:
        raise
    except ValueError as error:
        raise AdapterError(one_line(str(error))) from None
    except OSError as error:
        raise AdapterError(f"{_name(file)} cannot be read: {error.strerror or error}; check its permissions") from None


def _key(config: Method, path: str, name: str) -> str:
    """Return the key of a tensor in a file; `path` is "" for a tensor shared by all layers."""
    stored = f"{name}.weight" if name == COPY else name + config.suffix.get(name, "")
    return f"{PREFIX}{path}.{stored}" if path else SHARED + stored


def place_of(key: str) -> tuple[str, str]:
    """Return the module path and the tensor name of a key, with or without the prefix."""
    path, _, name = key.removesuffix(".weight").removeprefix(PREFIX).rpartition(".")
    return ("" if f"{path}." == SHARED else path), name


def _name(path: Path) -> str:
    return one_line(str(path))


class ExpectedTensor(NamedTuple):
    """A tensor that a file must contain: its layer's path, its name and key, and its symbolic and its actual shape."""

    path: str
    name: str
    key: str
    symbols: tuple[str | int, ...]
    shape: Shape


def _parts(config: Method, sizes: Sizes) -> Iterator[ExpectedTensor]:
    """Yield the tensors that a file must contain for layers of these sizes, including the shared tensors."""
    largest = {side: max((size[side] for size in sizes.values()), default=0) for side in ("in", "out")}
    for path, size in {**sizes, "": largest}.items():
        for name, symbols in config.shapes(path).items():
            shape = tuple(n if isinstance(n, int) else size[n] for n in symbols)
            yield ExpectedTensor(path, name, _key(config, path, name), symbols, shape)


def _inferred_sizes(config: Method, header: Header) -> Sizes:
    """Infer the feature sizes of the adapted layers, each from the first tensor with such a dimension."""
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
    """Check that a header has exactly the tensors that the config requires, and return these tensors.

    Copies of the base weights, which PEFT may save, are allowed.
    """
    expected = {part.key: part for part in _parts(config, sizes)}
    copies = {_key(config, path, COPY) for path in sizes}
    missing, extra = sorted(expected.keys() - header.keys()), sorted(header.keys() - expected.keys() - copies)
    if missing:
        hint = _layers(missing, header)
        raise AdapterError(f"{_name(file)} is missing {_some(missing)}, which its config requires{hint}")
    if extra:
        hint = _layers(extra, expected)
        raise AdapterError(f"{_name(file)} contains {_some(extra)}, which its config does not define{hint}")
    for key, part in expected.items():
        if (found := header[key][1]) != part.shape:
            hint = _what_differs(part, found)
            raise AdapterError(f"{_name(file)}: {_some([key])} should have shape {part.shape}, found {found}; {hint}")
    for key, (kind, _) in header.items():
        if kind not in BYTES:
            kinds = ", ".join(BYTES)
            raise AdapterError(f"{_name(file)}: {_some([key])} should have one of the dtypes {kinds}, found {kind}")
    if not expected:
        raise AdapterError(f"{_name(file)} contains no tensors")
    return list(expected.values())


def _what_differs(part: ExpectedTensor, found: Shape) -> str:
    """Explain a shape mismatch: some dimensions come from the config, others from the base model."""
    wrong = set()
    if len(found) == len(part.shape):
        wrong = {type(s) for s, n, m in zip(part.symbols, part.shape, found, strict=True) if n != m}
    if wrong == {str}:
        return "the adapter was made for a base model with different dimensions"
    if wrong == {int}:
        return "the rank in its config does not match its tensors"
    return "the adapter was made for a different base model"


def _layers(names: list[str], others: Mapping[str, object]) -> str:
    """Return a hint if the two sets of keys have no layer in common, otherwise an empty string."""
    here, there = ({layer_of(key) for key in keys} - {None} for keys in (names, others))
    hint = "; it was made for a base model with a different number of layers"
    return hint if here and there and not here & there else ""


def _stored(array: Array, dtype: str, what: str) -> Array:
    with np.errstate(over="ignore"):
        stored = array.astype(dtype)
    if not np.isfinite(stored).all():
        raise AdapterError(f"{what} contains values that are not finite in {dtype}; nothing was written")
    return stored


def _finite(file: Path, key: str, array: Array, dtype: np.dtype | type) -> Array:
    """Convert the array to `dtype`. Raises AdapterError if a converted value is not finite."""
    with np.errstate(all="ignore"):
        fitted = array.astype(dtype)
    if not np.isfinite(fitted).all():
        raise AdapterError(f"{_name(file)}: {key} contains values that are not finite in {fitted.dtype}")
    return fitted


def _refuse_another_base(file: Path, path: str, same: bool) -> None:
    """Reject a copy of a base weight that differs from the model's; PEFT saves one for an adapted output head."""
    if not same:
        copied = f"its copy of {path}.weight differs from this model's"
        raise AdapterError(f"{_name(file)} is for a different base model: {copied}")


def _some(names: list[str]) -> str:
    """Return the first name, truncated, and the number of remaining names."""
    return one_line(some([names[0][:LONGEST_NAME], *names[1:]]))
