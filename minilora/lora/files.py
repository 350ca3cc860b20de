"""Adapter folders in PEFT's layout: adapter_config.json and adapter_model.safetensors, read and written.

A tensor's key is `base_model.model.` + the module's path + `.lora_A.weight` or `.lora_B.weight`; the adapter's name is
not in it. Loading is strict where PEFT is not: a missing or an extra tensor is an error. An adapter comes from people
one does not know, so nothing of it is believed: names, types and shapes are compared with the model before any number
is read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from minilora.autograd.tensor import Array
from minilora.backend import copy_into, to_host
from minilora.files import read_header, read_json, read_tensors, regular_file, write_json, write_tensors
from minilora.lora.checks import one_line, shown
from minilora.lora.config import AdapterError, LoraConfig
from minilora.lora.inject import inject, lora_modules, refuse_if_merged, refuse_unknown
from minilora.lora.select import layer_of, leaf, select
from minilora.nn import Linear, Module

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
PARTS = "lora_A", "lora_B"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of one number, by the types that an adapter can have
LONGEST_NAME = 100  # letters of a tensor's key
LARGEST_CONFIG = 1_000_000  # bytes
LARGEST_UNSEEN = 2**31  # bytes of tensors that are read where no model says how many there should be

Header = dict[str, tuple[str, tuple[int, ...]]]  # type and shape of each tensor in a file


def save_adapter(
    model: Module, folder: str | Path, adapter: str = "default", *, base: str = "", dtype: str = "float32"
) -> None:
    """Write one adapter as a folder that PEFT opens.

    Parameters
    ----------
    base : the model's name or path, for the reader's information
    dtype : "float32" or "float16", on disk

    Raises AdapterError, before anything is written, for an unknown adapter or dtype, or numbers not finite in it.
    """
    refuse_unknown(model, [adapter])
    holders = {path: module for path, module in lora_modules(model) if adapter in module.config}
    if dtype not in ("float32", "float16"):
        raise AdapterError(f"expected dtype 'float32' or 'float16', got {dtype!r}")
    tensors = {}
    for path, module in holders.items():
        for part in PARTS:
            array = to_host(getattr(module, part)[adapter].data)
            with np.errstate(over="ignore"):
                tensors[_key(path, part)] = array.astype(dtype)
            if not np.isfinite(tensors[_key(path, part)]).all():
                raise AdapterError(
                    f"{part} of {path} holds numbers that are not finite in {dtype}; nothing was written"
                )
    config = next(iter(holders.values())).config[adapter]
    if config.target_modules == "all-linear":  # PEFT writes down the names that it stood for
        config = dataclasses.replace(config, target_modules=sorted({leaf(path) for path in holders}))
    write_tensors(Path(folder) / WEIGHTS, tensors)
    write_json(Path(folder) / CONFIG, {**config.to_dict(), "base_model_name_or_path": base or None})


def read_adapter(folder: str | Path) -> tuple[LoraConfig, dict[str, Array]]:
    """An adapter folder's config, and its tensors under their keys without the prefix.

    Raises AdapterError when the folder is no LoRA adapter that minilora implements, or its tensors are not an A (r, in)
    and a B (out, r) of finite float32 numbers for each module, with the config's r, or take more than 2 GiB.
    """
    config, file, header = _look(folder)
    _refuse_other_types(file, header)
    _refuse_unpaired(file, header, config)
    size = sum(BYTES[kind] * math.prod(shape) for kind, shape in header.values())
    if size > LARGEST_UNSEEN:
        raise AdapterError(f"{_name(file)} holds {size:,} bytes; load it onto its model, which says how many it needs")
    tensors = _read(file)
    for key, array in tensors.items():
        with np.errstate(all="ignore"):
            _refuse_infinite(file, key, array.astype(np.float32))
    return config, {key.removeprefix(PREFIX): array for key, array in tensors.items()}


def load_adapter(model: Module, folder: str | Path, adapter: str = "default") -> None:
    """Attach an adapter from a folder, minilora's or PEFT's, and make it the active one.

    Raises AdapterError, before the model is changed, when the folder is no LoRA adapter that minilora implements, its
    tensors are missing, extra, of other shapes or not finite, or its targets do not exist in this model. Nothing in
    the folder is executed, and nothing outside it is read.
    """
    config, file, header = _look(folder)
    refuse_if_merged(model, "load an adapter")
    targets = select(model, config)
    copies = {_key(path, "base_layer"): path for path in targets}
    _refuse_misfits(file, {k: v for k, v in header.items() if k not in copies}, _expected_shapes(targets, config))
    _refuse_other_types(file, header)
    for key in copies.keys() & header.keys():
        _refuse_another_base(file, copies[key], header[key][1] == targets[copies[key]].weight.shape)
    tensors = _fitted(file, _read(file), targets, config)
    inject(model, config, adapter, rng=np.random.default_rng(0))
    for path, module in lora_modules(model):
        if adapter in module.config:
            for part in PARTS:
                copy_into(getattr(module, part)[adapter].data, tensors[_key(path, part)])


def _look(folder: str | Path) -> tuple[LoraConfig, Path, Header]:
    """An adapter folder's config, its file of tensors, and what that file declares to hold."""
    config = Path(folder) / CONFIG
    with _refusing(config):
        if not config.exists() and not config.is_symlink():
            raise AdapterError(f"{_name(Path(folder))} is no adapter folder: expected {CONFIG} and {WEIGHTS} in it")
        values = read_json(regular_file(folder, CONFIG), limit=LARGEST_CONFIG)
    try:
        options = LoraConfig.from_dict(values)
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
    """What is wrong with a file, and what the system says about it, as an AdapterError."""
    try:
        yield
    except AdapterError:
        raise
    except ValueError as error:
        raise AdapterError(one_line(str(error))) from None
    except OSError as error:
        raise AdapterError(f"{_name(file)} cannot be read: {error.strerror or error}; check its permissions") from None


def _key(path: str, part: str) -> str:
    return f"{PREFIX}{path}.{part}.weight"


def _name(path: Path) -> str:
    return one_line(str(path))


def _expected_shapes(targets: dict[str, Linear], config: LoraConfig) -> dict[str, tuple[int, int]]:
    shapes = {}
    for path, linear in targets.items():
        r = config.rank(path)
        shapes[_key(path, "lora_A")] = (r, linear.in_features)
        shapes[_key(path, "lora_B")] = (linear.out_features, r)
    return shapes


def _refuse_misfits(file: Path, header: Header, expected: dict[str, tuple[int, int]]) -> None:
    missing, extra = sorted(expected.keys() - header.keys()), sorted(header.keys() - expected.keys())
    if missing:
        raise AdapterError(f"{_name(file)} lacks {_some(missing)}, which its config asks for{_layers(missing, header)}")
    if extra:
        hint = _layers(extra, expected)
        raise AdapterError(f"{_name(file)} holds {_some(extra)}, which its config does not ask for{hint}")
    for key, shape in expected.items():
        if (found := header[key][1]) != shape:
            hint = _what_differs(0 if key.endswith("lora_A.weight") else 1, shape, found)
            raise AdapterError(f"{_name(file)}: {key} should have shape {shape} on this model, found {found}; {hint}")


def _what_differs(axis: int, shape: tuple[int, int], found: tuple[int, ...]) -> str:
    """What two shapes of an A or B, whose rank is along `axis`, say about the adapter."""
    if len(found) == 2 and found[axis] == shape[axis]:
        return "the adapter was made for a base of other dimensions"
    if len(found) == 2 and found[1 - axis] == shape[1 - axis]:
        return f"its config says that the rank is {shape[axis]}"
    return "the adapter was made for another base"


def _layers(names: list[str], others: Header | dict[str, tuple[int, int]]) -> str:
    """A hint where all these names are of layers that the others do not have."""
    here, there = ({layer_of(name) for name in some} - {None} for some in (names, others))
    return "; it was made for a base with another number of layers" if here and there and not here & there else ""


def _refuse_other_types(file: Path, header: Header) -> None:
    for key, (kind, _) in header.items():
        if kind not in BYTES:
            kinds = ", ".join(BYTES)
            raise AdapterError(f"{_name(file)}: {_some([key])} should have one of the types {kinds}, found {kind}")


def _refuse_unpaired(file: Path, header: Header, config: LoraConfig) -> None:
    """Without a model, an adapter's tensors can still be compared with one another and with its config."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, (_, shape) in header.items():
        path, _, part = key.removesuffix(".weight").removeprefix(PREFIX).rpartition(".")
        known = key == _key(path, part) and part in (*PARTS, "base_layer")
        if not known or len(key) > LONGEST_NAME:
            raise AdapterError(f"{_name(file)} holds {_some([key])}, which is no tensor of a LoRA adapter")
        shapes.setdefault(path, {})[part] = shape
    if not shapes:
        raise AdapterError(f"{_name(file)} holds no tensors")
    for path, parts in shapes.items():
        a, b, r = parts.get("lora_A", ()), parts.get("lora_B", ()), config.rank(path)
        if len(a) != 2 or len(b) != 2 or not a[0] == b[1] == r:
            raise AdapterError(
                f"{_name(file)}: {_some([path])} needs A (r, in) and B (out, r) with r = {shown(r)}, found {a} and {b}"
            )


def _fitted(file: Path, tensors: dict[str, Array], targets: dict[str, Linear], config: LoraConfig) -> dict[str, Array]:
    """A and B in the model's own type. What is too large for it becomes infinite there, and is refused as well."""
    fitted = {}
    for path, linear in targets.items():
        copy = tensors.get(_key(path, "base_layer"))
        if copy is not None:
            _refuse_another_base(file, path, np.array_equal(copy, to_host(linear.weight.data)))
        with np.errstate(all="ignore"):
            for part in PARTS:
                key = _key(path, part)
                fitted[key] = tensors[key].astype(linear.weight.dtype)
                _refuse_infinite(file, key, fitted[key])
            scale = config.scaling(path)
            if not np.isfinite(np.asarray(scale).astype(linear.weight.dtype)):
                raise AdapterError(
                    f"{_name(file)}: the scale of {path}, {scale:g}, is not finite in {linear.weight.dtype}"
                )
    return fitted


def _refuse_infinite(file: Path, key: str, array: Array) -> None:
    if not np.isfinite(array).all():
        raise AdapterError(f"{_name(file)}: {key} holds numbers that are not finite in {array.dtype}")


def _refuse_another_base(file: Path, path: str, same: bool) -> None:
    """With an adapted output head, PEFT writes down the frozen weight as well: it must be this model's."""
    if not same:
        raise AdapterError(f"{_name(file)} is for another base: its copy of {path}.weight differs from this model's")


def _some(names: list[str]) -> str:
    """The first of the names, and how many more there are."""
    return one_line(names[0][:LONGEST_NAME]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")
