"""LoraConfig: the settings of LoRA, with PEFT's names, defaults and meanings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from minilora.adapters.method import MERGE, Method, method
from minilora.adapters.settings import (
    check_finite,
    check_flag,
    check_probability,
    check_rank,
    not_implemented,
    one_of,
    pattern_of,
    setting,
)
from minilora.adapters.update import Update
from minilora.autograd.tensor import Tensor
from minilora.backend import Array
from minilora.lora.lora import LoraUpdate, draw_A, draw_B
from minilora.messages import shown, span
from minilora.nn import Linear
from minilora.nn.module import AdapterError

KEEPING_THE_BASE = {"orthogonal", "eva", "mica"}  # values of init_lora_weights that only initialize A and B
WITHOUT_EFFECT = {
    "bias",  # further trained parameters are in the file, so these settings need no check of their own
    "modules_to_save",
    "ensure_weight_tying",
    "fan_in_fan_out",  # describes how the base stores W
    "use_qalora",  # PEFT uses it only for GPTQ models; the shapes of the tensors differ then
    "qalora_group_size",
    "loftq_config",  # initialization
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",  # training
    "monteclora_config",
    "megatron_config",
    "megatron_core",
    "runtime_config",
}
IGNORED_FOR_PARAMETERS = ("rank_pattern", "alpha_pattern", "layers_to_transform", "exclude_modules")
NOT_MERGEABLE = ("alora_invocation_tokens", "arrow_config", "layer_replication", "lora_bias")


@method
@dataclass(frozen=True)
class LoraConfig(Method):
    """The settings of a LoRA adapter (Hu et al. 2021). The settings that select the Linear layers are in `Method`.

    Attributes
    ----------
    r : rank of the update: A has r rows and B has r columns
    lora_alpha : α; the update is scaled by α/r
    lora_dropout : dropout probability for the input of A during training
    rank_pattern, alpha_pattern : different values of r or α for some modules, {regular expression: value}. A key must
        match the entire path of a module or the part after one of its dots; the first key that matches applies
    use_rslora : scale by α/√r instead, because α/r slows down training at large ranks (Kalajdzievski 2023)
    init_lora_weights : True: A uniform in ±1/√in, B zero. "gaussian": A normal with standard deviation 1/r, B zero.
        False: A as for True, B uniform in ±1/√r, so that ΔW is not zero (for tests)
    bias, modules_to_save : PEFT's settings for training further parameters; only "none" and None are implemented
    """

    r: int = setting(8, check_rank)
    lora_alpha: float = setting(8, check_finite)
    lora_dropout: float = setting(0.0, check_probability)
    rank_pattern: dict[str, int] = setting({}, pattern_of(check_rank, "r"))
    alpha_pattern: dict[str, float] = setting({}, pattern_of(check_finite, "lora_alpha"))
    use_rslora: bool = setting(False, check_flag)
    init_lora_weights: bool | str = setting(True, one_of(True, False, "gaussian"))
    bias: str = setting("none", not_implemented("none", ": the linear layers have no biases"))
    modules_to_save: list[str] | None = setting(None, not_implemented(None, ""))

    name: ClassVar[str] = "lora"
    label: ClassVar[str] = "LoRA"
    recognized_by: ClassVar[dict[str, Any]] = {"peft_type": "LORA"}
    update_type: ClassVar[type[LoraUpdate]] = LoraUpdate
    required: ClassVar[tuple[str, ...]] = ("r", "lora_alpha", "target_modules")
    suffix: ClassVar[dict[str, str]] = {"lora_A": ".weight", "lora_B": ".weight"}
    without_effect: ClassVar[frozenset[str]] = frozenset(WITHOUT_EFFECT)
    training_only: ClassVar[frozenset[str]] = frozenset({"lora_velora_embed", "lora_monteclora_sampler"})
    ways_out: ClassVar[dict[str, str]] = dict.fromkeys(
        NOT_MERGEABLE, "use this adapter with PEFT; it cannot be merged into the base"
    )

    def rank(self, path: str) -> int:
        """Return r for the module at `path`."""
        return self.first_match(self.rank_pattern, path, self.r)

    def alpha(self, path: str) -> float:
        """Return α for the module at `path`."""
        return self.first_match(self.alpha_pattern, path, self.lora_alpha)

    def scaling(self, path: str) -> float:
        """Return the scale s for the module at `path`: α/r, or α/√r with use_rslora."""
        r, alpha = self.rank(path), self.alpha(path)
        return alpha / math.sqrt(r) if self.use_rslora else alpha / r

    def shapes(self, path: str) -> dict[str, tuple[str | int, ...]]:
        return {"lora_A": (self.rank(path), "in"), "lora_B": ("out", self.rank(path))} if path else {}

    def draw(self, path: str, base: Linear, rng: np.random.Generator) -> dict[str, Array]:
        r, init = self.rank(path), self.init_lora_weights
        A = draw_A(r, base.in_features, init, rng)
        return {"lora_A": A, "lora_B": draw_B(base.out_features, r, init, rng)}

    def make_update(self, path: str, tensors: Mapping[str, Tensor]) -> Update:
        scale, dtype = self.scaling(path), tensors["lora_A"].dtype
        with np.errstate(over="ignore"):
            if not np.isfinite(np.asarray(scale).astype(dtype)):
                raise AdapterError(f"the scale of {path}, {scale:g}, is not finite in {dtype}; lower lora_alpha")
        return self.update_type(tensors, scale, self.lora_dropout)

    def summary(self, paths: Sequence[str]) -> str:
        return (
            f"a {self.label} adapter of rank {span(map(self.rank, paths))}, alpha {span(map(self.alpha, paths))}, "
            f"scaled by {'α/√r' if self.use_rslora else 'α/r'} = {span(map(self.scaling, paths))}, "
            f"dropout {self.lora_dropout:g}"
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        init, parameters = values.get("init_lora_weights"), values.get("target_parameters")
        if isinstance(init, str) and init in KEEPING_THE_BASE:
            values = {**values, "init_lora_weights": True}
        elif isinstance(init, str) and init != "gaussian":
            raise AdapterError(
                f"init_lora_weights = {shown(init)} changes the weights of the base; save the adapter again as plain "
                f"LoRA, with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...), or {MERGE}"
            )
        if isinstance(parameters, list) and _are_linear_weights(parameters, values):
            targets = [*(values.get("target_modules") or []), *(name.removesuffix(".weight") for name in parameters)]
            values = {**values, "target_modules": targets, "target_parameters": None}
        if saved := values.get("modules_to_save"):
            values = {**values, "exclude_modules": _excluding(values.get("exclude_modules"), saved)}
        return super().from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        return {"fan_in_fan_out": False, "use_dora": False, **super().to_dict()}


def _are_linear_weights(parameters: list[Any], values: Mapping[str, Any]) -> bool:
    """Return whether PEFT adapts these parameters in the same way as the modules of the same names.

    PEFT ignores the options in IGNORED_FOR_PARAMETERS for parameters, so these must not be set.
    """
    patterns = any(values.get(name) for name in IGNORED_FOR_PARAMETERS)
    names = not isinstance(values.get("target_modules"), str)
    return names and not patterns and all(isinstance(p, str) and p.endswith(".weight") for p in parameters)


def _excluding(exclude: Any, saved: Any) -> Any:
    """Return `exclude_modules` as a regular expression that also excludes the modules_to_save, as in PEFT."""
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        return exclude
    excluded = [rf"(.*\.)?({'|'.join(saved)})(\..*)?"]
    if isinstance(exclude, list):
        excluded += [rf"(.*\.)?{re.escape(str(name))}" for name in exclude]
    elif exclude:
        excluded.append(f"({exclude})")
    return "|".join(excluded)
