"""Facts about an adapter: the norms and effective ranks of its ΔW, and which programs can load it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from minilora.adapters.files import place_of
from minilora.adapters.method import Method
from minilora.adapters.targets import layer_of
from minilora.adapters.update import Update
from minilora.autograd.tensor import Tensor, no_grad
from minilora.backend import Array, to_host
from minilora.lora.config import LoraConfig
from minilora.lora.spectrum import singular_values
from minilora.nn import Linear

VLLM_DEFAULT_RANK, VLLM_RANKS = 16, (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what its max_lora_rank can be


@dataclass(frozen=True)
class ModuleFacts:
    """One adapted module.

    Attributes
    ----------
    shapes : of its tensors, by name
    parameters : how many numbers these are
    norm, relative : ‖ΔW‖ and ‖ΔW‖ / ‖W‖, Frobenius norms; None where W is needed for it and not known
    effective_rank : see `effective_rank`; None likewise
    """

    path: str
    shapes: dict[str, tuple[int, ...]]
    parameters: int
    norm: float | None
    relative: float | None
    effective_rank: float | None


@dataclass(frozen=True)
class Loader:
    """Whether a program reproduces the output of this adapter; `note` says why not, or what it needs."""

    program: str
    compatible: bool
    note: str = ""


def effective_rank(values: Array) -> float:
    """The effective rank of a matrix with these singular values: exp of the entropy of the values over their sum.

    Between 1 and the rank; n for n equal singular values; 0 for a zero matrix (Roy and Vetterli 2007, "The effective
    rank: a measure of effective dimensionality", definition 1).
    """
    shares = values[values > 0] / max(values.sum(), np.finfo(np.float64).tiny)
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0


def module_facts(config: Method, tensors: Mapping[str, Array], weights: Mapping[str, Array]) -> list[ModuleFacts]:
    """Facts about every module of an adapter as `read_adapter` gives it; `weights` are the base's W, by path."""
    parts: dict[str, dict[str, Array]] = defaultdict(dict)
    for key, array in tensors.items():
        path, name = place_of(key)
        parts[path][name] = array
    shared = parts.pop("", {})
    paths = sorted((path for path in parts if config.shapes(path)), key=lambda path: (layer_of(path) or 0, path))
    return [_facts(config, path, parts[path], shared, weights.get(path)) for path in paths]


@no_grad()
def _facts(
    config: Method, path: str, arrays: Mapping[str, Array], shared: Mapping[str, Array], weight: Array | None
) -> ModuleFacts:
    own = {name: arrays[name] for name in config.shapes(path)}
    tensors = {name: Tensor(array.astype(np.float64)) for name, array in {**own, **shared}.items()}
    values, W = None, None if weight is None else to_host(weight).astype(np.float64)
    if base := _base(config, path, own, W):
        values = _singular_values(config.make_update(path, tensors), base, known=W is not None)
    norm = None if values is None else math.hypot(*values.tolist())
    base_norm = 0.0 if W is None else float(np.linalg.norm(W))
    return ModuleFacts(
        path,
        shapes={name: array.shape for name, array in own.items()},
        parameters=sum(array.size for array in own.values()),
        norm=norm,
        relative=norm / base_norm if norm is not None and base_norm else None,
        effective_rank=None if values is None else effective_rank(values),
    )


def _base(config: Method, path: str, arrays: Mapping[str, Array], W: Array | None) -> Linear | None:
    """The base, or one of zeros that has its size, where the shapes of the tensors give that; else None."""
    if W is not None:
        return Linear(Tensor(W))
    symbols = ((config.shapes(path)[name], array.shape) for name, array in arrays.items())
    size = {s: n for shape, known in symbols for s, n in zip(shape, known, strict=True)}
    if not {"in", "out"} <= size.keys():
        return None
    return Linear(Tensor(np.broadcast_to(0.0, (size["out"], size["in"]))))  # takes no memory


def _singular_values(update: Update, base: Linear, known: bool) -> Array | None:
    """The singular values of ΔW; None where there is no ΔW, or W is needed for it and not `known`."""
    if factors := update.factors(base):
        return abs(factors.scale) * singular_values(factors.A.data, factors.B.data)
    delta = update.delta(base) if known else None
    return None if delta is None else np.linalg.svd(delta.data, compute_uv=False)


def loaders(config: Method, paths: Collection[str], tied: bool = False) -> list[Loader]:
    """Whether PEFT, vLLM and llama.cpp would load an adapter of the modules at `paths` and compute the same as here.

    `tied` says whether the base's output head is its embedding table. According to the sources:

    - PEFT 0.21.2, `LoraConfig.__post_init__`: `layers_to_transform` only beside a list of names.
    - vLLM (`vllm/lora/peft_helper.py` at commit e745baf, `vllm/lora/lora_model.py` at 0306474, `vllm/config/lora.py`
      at a78dc92 and in 0.22.1): all modules have one scale, α/r or with use_rslora α/√r; rank_pattern and alpha_pattern
      are not read. The buffers hold ranks up to `max_lora_rank`: 16 unless set, and 512 at most.
    - llama.cpp (`convert_lora_to_gguf.py` at commit 0b03ada, `src/llama-adapter.h` at d66c5cd, `src/llama-adapter.cpp`
      at 0650ea8): each module is scaled by α over its own rank, or by 1 where α is 0; use_rslora and alpha_pattern are
      not read. A tied head has no tensor of its own there that an adapter could belong to.
    """
    if type(config) is not LoraConfig:
        note = "it supports LoRA alone"
        return [_peft(config), Loader("vLLM", False, note), Loader("llama.cpp", False, note)]
    return [_peft(config), _vllm(config, paths), _llama_cpp(config, paths, tied)]


def _peft(config: Method) -> Loader:
    if isinstance(config.target_modules, str) and config.layers_to_transform is not None:
        return Loader("PEFT", False, "it takes layers_to_transform only beside a list of target_modules")
    return Loader("PEFT", True)


def _vllm(config: LoraConfig, paths: Collection[str]) -> Loader:
    rank = max([config.r, *map(config.rank, paths)])
    if rank > VLLM_RANKS[-1]:
        return Loader("vLLM", False, f"its ranks end at {VLLM_RANKS[-1]}, this one is {rank}")
    scale = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    for path in paths:
        if not math.isclose(config.scaling(path), scale):
            return Loader("vLLM", False, f"it scales all by {scale:g}, {path} needs {config.scaling(path):g}")
    flag = f"started with --max-lora-rank {next(r for r in VLLM_RANKS if r >= rank)}"
    return Loader("vLLM", True, flag if rank > VLLM_DEFAULT_RANK else "")


def _llama_cpp(config: LoraConfig, paths: Collection[str], tied: bool) -> Loader:
    for path in paths:
        scale = config.lora_alpha / config.rank(path) if config.lora_alpha else 1.0
        if not math.isclose(config.scaling(path), scale):
            return Loader("llama.cpp", False, f"it scales {path} by {scale:g}, which needs {config.scaling(path):g}")
    if tied and "lm_head" in paths:
        return Loader("llama.cpp", False, "lm_head is tied to the embeddings there, and has no tensor of its own")
    return Loader("llama.cpp", True, "after convert_lora_to_gguf.py")
