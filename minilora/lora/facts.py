"""Facts about an adapter: the norm and effective rank of each ΔW, and the programs that can load it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from minilora.adapters.contents import place_of
from minilora.adapters.method import Method
from minilora.adapters.targets import layer_of
from minilora.adapters.update import Update
from minilora.autograd.tensor import Tensor, no_grad
from minilora.backend import Array, to_host
from minilora.lora.config import LoraConfig
from minilora.lora.spectrum import singular_values
from minilora.nn import Linear

VLLM_DEFAULT_RANK, VLLM_RANKS = 16, (1, 8, 16, 32, 64, 128, 256, 320, 512)  # default and valid max_lora_rank of vLLM


@dataclass(frozen=True)
class ModuleFacts:
    """Facts about one adapted module.

    Attributes
    ----------
    path : path of the module
    shapes : shapes of the adapter's tensors in this module, by name
    parameters : number of parameters in these tensors
    norm : Frobenius norm ‖ΔW‖; None if the update has no ΔW, or if ΔW depends on W and W is not known
    relative : ‖ΔW‖ / ‖W‖; None also if W is not known or zero
    effective_rank : effective rank of ΔW (see `effective_rank`); None if `norm` is None
    """

    path: str
    shapes: dict[str, tuple[int, ...]]
    parameters: int
    norm: float | None
    relative: float | None
    effective_rank: float | None


@dataclass(frozen=True)
class Loader:
    """Whether a program reproduces the output of an adapter. `note` says why not, or states a requirement."""

    program: str
    compatible: bool
    note: str = ""


def effective_rank(values: Array) -> float:
    """Return the effective rank of a matrix with these singular values: exp(-Σ pᵢ ln pᵢ), where pᵢ = σᵢ / Σ σⱼ.

    It is between 1 and the rank, n for n equal singular values, and 0 for a zero matrix (Roy and Vetterli 2007, "The
    effective rank: a measure of effective dimensionality", definition 1).
    """
    shares = values[values > 0] / max(values.sum(), np.finfo(np.float64).tiny)
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0


def module_facts(config: Method, tensors: Mapping[str, Array], weights: Mapping[str, Array]) -> list[ModuleFacts]:
    """Return the facts about each module of an adapter, ordered by layer.

    `config` and `tensors` are the result of `read_adapter`; `weights` has the base model's W by path, as far as known.
    """
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
    """Return the base layer; if W is None, a zero layer of the same shape if the tensors determine it, else None."""
    if W is not None:
        return Linear(Tensor(W))
    symbols = ((config.shapes(path)[name], array.shape) for name, array in arrays.items())
    size = {s: n for shape, known in symbols for s, n in zip(shape, known, strict=True)}
    if not {"in", "out"} <= size.keys():
        return None
    return Linear(Tensor(np.broadcast_to(0.0, (size["out"], size["in"]))))  # a broadcast view, which needs no memory


def _singular_values(update: Update, base: Linear, known: bool) -> Array | None:
    """Return the singular values of ΔW; None if there is no ΔW, or if it depends on W and W is not `known`."""
    if factors := update.factors(base):
        return abs(factors.scale) * singular_values(factors.A.data, factors.B.data)
    delta = update.delta(base) if known else None
    return None if delta is None else np.linalg.svd(delta.data, compute_uv=False)


def loaders(config: Method, paths: Collection[str], tied: bool = False) -> list[Loader]:
    """Return whether PEFT, vLLM and llama.cpp can load an adapter of the modules at `paths` and reproduce its output.

    `tied` states whether the base model's output head shares its weight with the embedding. The limits of each program
    are taken from its source code:

    - PEFT 0.21.2, `LoraConfig.__post_init__`: `layers_to_transform` requires `target_modules` to be a list.
    - vLLM (`vllm/lora/peft_helper.py` at commit e745baf, `vllm/lora/lora_model.py` at 0306474, `vllm/config/lora.py`
      at a78dc92 and in 0.22.1): all modules have the same scale, α/r or, with use_rslora, α/√r; rank_pattern and
      alpha_pattern are ignored. The rank can be at most `max_lora_rank`, which is 16 by default and 512 at most.
    - llama.cpp (`convert_lora_to_gguf.py` at commit 0b03ada, `src/llama-adapter.h` at d66c5cd, `src/llama-adapter.cpp`
      at 0650ea8): each module is scaled by α over its own rank, or by 1 if α is 0; use_rslora and alpha_pattern are
      ignored. A tied output head has no tensor of its own that could be adapted.
    """
    if type(config) is not LoraConfig:
        note = "it supports only LoRA"
        return [_peft(config), Loader("vLLM", False, note), Loader("llama.cpp", False, note)]
    return [_peft(config), _vllm(config, paths), _llama_cpp(config, paths, tied)]


def _peft(config: Method) -> Loader:
    if isinstance(config.target_modules, str) and config.layers_to_transform is not None:
        return Loader("PEFT", False, "it accepts layers_to_transform only with a list of target_modules")
    return Loader("PEFT", True)


def _vllm(config: LoraConfig, paths: Collection[str]) -> Loader:
    rank = max([config.r, *map(config.rank, paths)])
    if rank > VLLM_RANKS[-1]:
        return Loader("vLLM", False, f"its largest rank is {VLLM_RANKS[-1]}, and this adapter has rank {rank}")
    scale = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    for path in paths:
        if not math.isclose(config.scaling(path), scale):
            needed = config.scaling(path)
            return Loader("vLLM", False, f"it scales all modules by {scale:g}, but {path} needs {needed:g}")
    flag = f"if started with --max-lora-rank {next(r for r in VLLM_RANKS if r >= rank)}"
    return Loader("vLLM", True, flag if rank > VLLM_DEFAULT_RANK else "")


def _llama_cpp(config: LoraConfig, paths: Collection[str], tied: bool) -> Loader:
    for path in paths:
        scale = config.lora_alpha / config.rank(path) if config.lora_alpha else 1.0
        if not math.isclose(config.scaling(path), scale):
            return Loader("llama.cpp", False, f"it scales {path} by {scale:g} instead of {config.scaling(path):g}")
    if tied and "lm_head" in paths:
        return Loader("llama.cpp", False, "it has no separate tensor for a tied lm_head")
    return Loader("llama.cpp", True, "after convert_lora_to_gguf.py")
