"""Adapter folders in PEFT's layout: adapter_config.json and adapter_model.safetensors, read and written.

A tensor's key is `base_model.model.` + the module's path + `.lora_A.weight` or `.lora_B.weight`; the adapter's name is
not in it. Loading is strict where PEFT is not: a missing or an extra tensor is an error.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from minilora.autograd.tensor import Array
from minilora.files import read_json, read_tensors, write_json, write_tensors
from minilora.lora.config import AdapterError, LoraConfig
from minilora.lora.inject import inject, lora_modules, refuse_if_merged, refuse_unknown
from minilora.lora.select import leaf, select
from minilora.nn import Linear, Module

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
PARTS = "lora_A", "lora_B"


def save_adapter(
    model: Module, folder: str | Path, adapter: str = "default", *, base: str = "", dtype: str = "float32"
) -> None:
    """Write one adapter as a folder that PEFT opens.

    Parameters
    ----------
    base : the model's name or path, for the reader's information
    dtype : "float32" or "float16", on disk
    """
    refuse_unknown(model, [adapter])
    holders = {path: module for path, module in lora_modules(model) if adapter in module.config}
    if dtype not in ("float32", "float16"):
        raise AdapterError(f"expected dtype 'float32' or 'float16', got {dtype!r}")
    tensors = {}
    for path, module in holders.items():
        for part in PARTS:
            tensors[f"{PREFIX}{path}.{part}.weight"] = getattr(module, part)[adapter].data.astype(dtype)
    config = next(iter(holders.values())).config[adapter]
    if config.target_modules == "all-linear":  # PEFT writes down the names that it stood for
        config = dataclasses.replace(config, target_modules=sorted({leaf(path) for path in holders}))
    write_tensors(Path(folder) / WEIGHTS, tensors)
    write_json(Path(folder) / CONFIG, {**config.to_dict(), "base_model_name_or_path": base or None})


def read_adapter(folder: str | Path) -> tuple[LoraConfig, dict[str, Array]]:
    """An adapter folder's config, and its tensors under their keys without the prefix."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise AdapterError(f"{folder} is no adapter folder: expected {CONFIG} and {WEIGHTS} in it")
    try:
        config = LoraConfig.from_dict(read_json(folder / CONFIG))
        tensors = read_tensors(folder / WEIGHTS)
    except AdapterError as error:
        raise AdapterError(f"{folder / CONFIG}: {error}") from None
    except ValueError as error:
        raise AdapterError(str(error)) from None
    return config, {key.removeprefix(PREFIX): array for key, array in tensors.items()}


def load_adapter(model: Module, folder: str | Path, adapter: str = "default") -> None:
    """Attach an adapter from a folder, minilora's or PEFT's, and make it the active one.

    Raises AdapterError, before the model is changed, when the folder is no LoRA adapter that minilora implements, its
    tensors are missing, extra, of other shapes or not finite, or its targets do not exist in this model.
    """
    config, tensors = read_adapter(folder)
    refuse_if_merged(model, "load an adapter")
    targets = select(model, config)
    _set_aside_base_copies(Path(folder) / WEIGHTS, tensors, targets)
    _refuse_misfits(Path(folder) / WEIGHTS, tensors, _expected_shapes(targets, config))
    inject(model, config, adapter, rng=np.random.default_rng(0))
    for path, module in lora_modules(model):
        if adapter in module.config:
            for part in PARTS:
                getattr(module, part)[adapter].data[...] = tensors[f"{path}.{part}.weight"]


def _set_aside_base_copies(file: Path, tensors: dict[str, Array], targets: dict[str, Linear]) -> None:
    """With an adapted output head, PEFT writes down the frozen weight as well: it must be this model's."""
    for path, linear in targets.items():
        copy = tensors.pop(f"{path}.base_layer.weight", None)
        if copy is not None and not np.array_equal(copy, linear.weight.data):
            raise AdapterError(f"{file} is for another base: its copy of {path}.weight differs from this model's")


def _expected_shapes(targets: dict[str, Linear], config: LoraConfig) -> dict[str, tuple[int, int]]:
    shapes = {}
    for path, linear in targets.items():
        r = config.rank(path)
        shapes[f"{path}.lora_A.weight"] = (r, linear.in_features)
        shapes[f"{path}.lora_B.weight"] = (linear.out_features, r)
    return shapes


def _refuse_misfits(file: Path, tensors: dict[str, Array], expected: dict[str, tuple[int, int]]) -> None:
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing:
        raise AdapterError(f"{file} lacks {_some(missing)}, which its config asks for")
    if extra:
        raise AdapterError(f"{file} holds {_some(extra)}, which its config does not ask for")
    for name, shape in expected.items():
        array = tensors[name]
        if array.shape != shape:
            raise AdapterError(f"{file}: {name} should have shape {shape} on this model, found {array.shape}")
        if not np.isfinite(array).all():
            raise AdapterError(f"{file}: {name} holds numbers that are not finite")


def _some(names: list[str]) -> str:
    """The first of the names, and how many more there are."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
