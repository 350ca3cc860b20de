"""Reading and writing adapter folders in PEFT's format: adapter_config.json and adapter_model.safetensors.

Loading is stricter than in PEFT: a missing tensor, or one that would change the base, is an error (`contents.py`).
Adapter files are untrusted input: names, dtypes and shapes are checked against the model before any tensor data is
read.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from minilora.adapters.attach import hosts, place, refuse_single_layer
from minilora.adapters.contents import PREFIX, Header, check_copies, check_header, inferred_sizes, tensor_key
from minilora.adapters.fingerprint import fingerprint
from minilora.adapters.method import Method, recognize
from minilora.adapters.targets import module_name, select
from minilora.assets import VOICES
from minilora.backend import Array, to_host
from minilora.files import (
    ELEMENT_BYTES,
    read_header,
    read_json,
    read_metadata,
    read_tensors,
    regular_file,
    write_json,
    write_tensors,
)
from minilora.messages import expect, one_line
from minilora.nn import Module
from minilora.nn.module import AdapterError, check_module

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
FINGERPRINT = "base_fingerprint"  # in the metadata of the tensor file
LARGEST_CONFIG = 1_000_000  # bytes
LARGEST_UNSEEN = 2**31  # bytes of tensor data that can be read without a model


def save_adapter(
    model: Module,
    folder: str | Path,
    adapter: str = "default",
    *,
    base: str | Path | None = None,
    dtype: str = "float32",
) -> None:
    """Save one adapter as a folder that PEFT can load.

    Parameters
    ----------
    base : name or path of the base model, saved as base_model_name_or_path; by default the folder that it was loaded
        from. A fingerprint of its weights is saved as well
    dtype : dtype of the saved tensors, "float32" or "float16"

    Raises AdapterError, before anything is written, if the adapter or dtype is unknown or a value is not finite in this
    dtype.
    """
    expect(adapter, str, "the name of an adapter")
    expect(base, str | Path | None, "the name or path of a base model")
    holders = hosts(model, adapter)
    if dtype not in ("float32", "float16"):
        raise AdapterError(f"expected dtype 'float32' or 'float16', got {dtype!r}")
    config = next(iter(holders.values())).config[adapter]
    tensors: dict[str, Array] = {}
    for path, host in holders.items():
        refuse_single_layer(path)
        for name, tensor in host.updates[adapter].tensors.items():
            key = tensor_key(config, "" if name in config.shapes("") else path, name)
            if key not in tensors:
                tensors[key] = _stored(to_host(tensor.data), dtype, f"{name} of {path}")
    if config.target_modules == "all-linear":  # like PEFT, store the names of the selected modules
        config = dataclasses.replace(config, target_modules=sorted({module_name(path) for path in holders}))
    name = getattr(model, "name_or_path", "") if base is None else str(base)
    write_tensors(Path(folder) / WEIGHTS, tensors, {"format": "pt", FINGERPRINT: fingerprint(model)})
    write_json(Path(folder) / CONFIG, {**config.to_dict(), "base_model_name_or_path": name or None})


def read_adapter(folder: str | Path) -> tuple[Method, dict[str, Array]]:
    """Return the config of an adapter folder, and the adapter's tensors by key, without the prefix `base_model.model.`.

    Raises AdapterError if the folder does not contain an adapter of a method that minilora implements, or if its
    tensors do not have the shapes that its config requires, contain values that are not finite in float32, or take more
    than 2 GiB.
    """
    config, file, header = _look(folder)
    parts = check_header(file, header, config, inferred_sizes(config, header)).tensors
    size = sum(ELEMENT_BYTES.get(kind, 8) * math.prod(shape) for kind, shape in header.values())
    if size > LARGEST_UNSEEN:
        limit = f"more than the {LARGEST_UNSEEN:,} that can be read without a model"
        raise AdapterError(f"{_name(file)} contains {size:,} bytes of tensor data, {limit}; use load_adapter")
    keys = {part.key for part in parts}
    tensors = {key: array for key, array in _read(file).items() if key in keys}
    for key, array in tensors.items():
        _finite(file, key, array, np.float32)
    return config, {key.removeprefix(PREFIX): array for key, array in tensors.items()}


def load_adapter(model: Module, folder: str | Path, adapter: str | None = None) -> None:
    """Attach an adapter from a folder saved by minilora or PEFT, and make it the active one.

    `folder` can also be the name of a packaged voice. By default, the adapter's name is the name of the voice, or
    "default" for a folder.

    Raises AdapterError, before the model is changed, if the folder does not contain an adapter of a method that
    minilora implements, none of its targets exist, a tensor is missing, unexpected, of the wrong shape or not finite,
    the file replaces a weight of the base, the name is taken or invalid, or adapters are merged. Nothing in the folder
    is executed, and nothing outside it is read, except for the blobs that a snapshot in the Hugging Face cache links
    to. Warns if the adapter was trained on a base model with different weights.
    """
    check_module(model)
    if adapter is None:
        adapter = str(folder) if packaged_voice(folder) else "default"
    config, file, header = _look(folder)
    model.refuse_if_merged("load an adapter")
    targets = select(model, config, strict=False)
    sizes = {path: {"in": linear.in_features, "out": linear.out_features} for path, linear in targets.items()}
    contents = check_header(file, header, config, sizes)
    check_copies(file, contents.copies, model, header, {})
    tensors = _read(file)
    check_copies(file, contents.copies, model, header, tensors)
    arrays: dict[str, dict[str, Array]] = defaultdict(dict)
    for part in contents.tensors:
        arrays[part.path][part.name] = _finite(file, part.key, tensors[part.key], model.dtype)
    if (known := read_metadata(file).get(FINGERPRINT)) and known != fingerprint(model):
        where = _name(file.parent)
        warnings.warn(
            f"{where} was trained on a base model with different weights and may not work as intended", stacklevel=2
        )
    place(model, config, adapter, arrays)


def read_config(folder: str | Path) -> Method:
    """Return the config of an adapter folder or packaged voice."""
    return _look(folder)[0]


def recorded_base(folder: str | Path) -> tuple[str, str]:
    """Return the name or path of the base model that an adapter folder records, and its fingerprint, or "" for each."""
    _, file, _ = _look(folder)
    name = read_json(file.with_name(CONFIG)).get("base_model_name_or_path")
    return name if isinstance(name, str) else "", read_metadata(file).get(FINGERPRINT, "")


def _look(folder: str | Path) -> tuple[Method, Path, Header]:
    """Return the config of an adapter folder, the path of its tensor file, and the header of that file."""
    folder = packaged_voice(folder) or Path(folder)
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
        if (folder / PICKLED).is_file() and not (folder / WEIGHTS).exists():
            raise AdapterError(
                f"{_name(folder)} contains {PICKLED}, a pickle file, which can execute code when it is loaded; if you "
                "trust its source, convert it in that folder with `safetensors.torch.save_file(torch.load("
                f"'{PICKLED}', weights_only=True), '{WEIGHTS}')`"
            )
        file = regular_file(folder, WEIGHTS)
        return options, file, read_header(file)


def _voices() -> dict[str, Path]:
    return {config.parent.name: config.parent for config in sorted(VOICES.glob(f"*/{CONFIG}"))}


def packaged_voice(name: str | Path) -> Path | None:
    """Return the folder of a packaged voice; None if there is no such voice, or if an adapter folder has this path."""
    return None if (Path(name) / CONFIG).exists() else _voices().get(str(name))


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


def _name(path: Path) -> str:
    return one_line(str(path))


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
