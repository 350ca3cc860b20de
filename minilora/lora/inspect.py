"""What an adapter is worth knowing by: how large its ΔW are, how many directions they use, and who would take it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from minilora.autograd.tensor import Array
from minilora.lora.config import LoraConfig
from minilora.lora.factors import singular_values
from minilora.lora.select import layer_of

VLLM_DEFAULT_RANK, VLLM_RANKS = 16, (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what its max_lora_rank can be


@dataclass(frozen=True)
class ModuleFacts:
    """One adapted module. Norms are Frobenius norms; `relative` is ‖ΔW‖ / ‖W‖, None where W is not known."""

    path: str
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    parameters: int
    norm: float
    relative: float | None
    effective_rank: float


@dataclass(frozen=True)
class Taker:
    """Whether a program would compute this adapter as it was trained; `note` says why not, or what it needs."""

    program: str
    takes: bool
    note: str = ""


def effective_rank(A: Array, B: Array) -> float:
    """How many directions B A uses: exp of the entropy of its singular values, normalised to the sum 1.

    Between 1 and the rank; n for n equal singular values; 0 for B A = 0 (Roy and Vetterli 2007, "The effective rank: a
    measure of effective dimensionality", definition 1).
    """
    values = singular_values(A, B)
    shares = values[values > 0] / max(values.sum(), np.finfo(np.float64).tiny)
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0


def module_facts(config: LoraConfig, tensors: Mapping[str, Array], weights: Mapping[str, Array]) -> list[ModuleFacts]:
    """Facts about every module of an adapter as `read_adapter` gives it; `weights` are the base's W, by path."""
    facts = []
    paths = [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")]
    for path in sorted(paths, key=lambda path: (layer_of(path) or 0, path)):
        a, b = (tensors[f"{path}.{part}.weight"] for part in ("lora_A", "lora_B"))
        norm = abs(config.scaling(path)) * math.hypot(*singular_values(a, b).tolist())
        base = float(np.linalg.norm(weights[path].astype(np.float64))) if path in weights else 0.0
        relative = norm / base if base else None
        facts.append(ModuleFacts(path, a.shape, b.shape, a.size + b.size, norm, relative, effective_rank(a, b)))
    return facts


def takers(config: LoraConfig, paths: Collection[str], tied: bool = False) -> list[Taker]:
    """Whether PEFT, vLLM and llama.cpp would take an adapter of the modules at `paths` and compute the same as here.

    `tied` says whether the base's output head is its embedding table. Read in the sources:

    - PEFT 0.21.2, `LoraConfig.__post_init__`: `layers_to_transform` only beside a list of names.
    - vLLM (`vllm/lora/peft_helper.py` at commit e745baf, `vllm/lora/lora_model.py` at 0306474, `vllm/config/lora.py`
      at a78dc92 and in 0.22.1): all modules have one scale, α/r or with use_rslora α/√r; rank_pattern and alpha_pattern
      are not read. The buffers hold ranks up to `max_lora_rank`: 16 unless set, and 512 at most.
    - llama.cpp (`convert_lora_to_gguf.py` at commit 0b03ada, `src/llama-adapter.h` at d66c5cd, `src/llama-adapter.cpp`
      at 0650ea8): each module is scaled by α over its own rank, or by 1 where α is 0; use_rslora and alpha_pattern are
      not read. A tied head has no tensor of its own there that an adapter could belong to.
    """
    return [_peft(config), _vllm(config, paths), _llama_cpp(config, paths, tied)]


def _peft(config: LoraConfig) -> Taker:
    if isinstance(config.target_modules, str) and config.layers_to_transform is not None:
        return Taker("PEFT", False, "it takes layers_to_transform only beside a list of target_modules")
    return Taker("PEFT", True)


def _vllm(config: LoraConfig, paths: Collection[str]) -> Taker:
    rank = max([config.r, *map(config.rank, paths)])
    if rank > VLLM_RANKS[-1]:
        return Taker("vLLM", False, f"its ranks end at {VLLM_RANKS[-1]}, this one is {rank}")
    scale = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    for path in paths:
        if not math.isclose(config.scaling(path), scale):
            return Taker("vLLM", False, f"it scales all by {scale:g}, {path} needs {config.scaling(path):g}")
    flag = f"started with --max-lora-rank {next(r for r in VLLM_RANKS if r >= rank)}"
    return Taker("vLLM", True, flag if rank > VLLM_DEFAULT_RANK else "")


def _llama_cpp(config: LoraConfig, paths: Collection[str], tied: bool) -> Taker:
    for path in paths:
        scale = config.lora_alpha / config.rank(path) if config.lora_alpha else 1.0
        if not math.isclose(config.scaling(path), scale):
            return Taker("llama.cpp", False, f"it scales {path} by {scale:g}, which needs {config.scaling(path):g}")
    if tied and "lm_head" in paths:
        return Taker("llama.cpp", False, "lm_head is tied to the embeddings there, and has no tensor of its own")
    return Taker("llama.cpp", True, "after convert_lora_to_gguf.py")
