"""LlamaConfig: the hyperparameters of a model, under Hugging Face's names, and checks for unsupported options."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LlamaConfig:
    """The configuration of a Llama. The defaults give a byte-level model with 2.7 million parameters.

    Attributes
    ----------
    vocab_size : the number of tokens in the vocabulary; 256 for bytes
    hidden_size : C, the width of the residual stream
    intermediate_size : the hidden width of the MLP
    num_hidden_layers, num_attention_heads : the numbers of layers, and of query heads per layer
    num_key_value_heads : G; each serves num_attention_heads / G query heads. None: one per query head
    head_dim : D, the width of a head. None: hidden_size / num_attention_heads
    max_position_embeddings : the context length, in tokens
    rms_norm_eps : added to the mean square in RMSNorm
    rope_theta : the base of the rotary wavelengths, which range from 2π to almost 2π rope_theta positions
    tie_word_embeddings : whether the output head shares the weight of the embedding
    initializer_range : the standard deviation of initial weights
    bos_token_id, eos_token_id : the tokens that begin and end a text; eos may be a list. None: no such token
    """

    vocab_size: int = 256
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 6
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 256
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        plain_scalars(self)
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        for field in dataclasses.fields(self):
            if field.name.endswith("token_id"):
                _check_token(field.name, getattr(self, field.name))
            elif field.name != "tie_word_embeddings":
                _check_positive(field, getattr(self, field.name))
        if self.num_attention_heads % self.kv_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) should be a multiple of num_key_value_heads "
                f"({self.kv_heads})"
            )
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size ({self.hidden_size}) should be a multiple of num_attention_heads "
                    f"({self.num_attention_heads}) unless head_dim is given"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.head_size % 2:
            raise ValueError(f"head_dim should be even, so that features can be rotated in pairs; got {self.head_size}")

    @property
    def end_tokens(self) -> frozenset[int]:
        """The ids in eos_token_id, as a set."""
        eos = self.eos_token_id
        if eos is None:
            return frozenset()
        return frozenset(eos if isinstance(eos, Sequence) else [eos])

    @property
    def kv_heads(self) -> int:
        assert self.num_key_value_heads is not None
        return self.num_key_value_heads

    @property
    def head_size(self) -> int:
        assert self.head_dim is not None
        return self.head_dim

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LlamaConfig:
        """Create a config from the contents of a Hugging Face config.json.

        Raises ValueError if required options are missing or invalid, or if the model requires a feature that minilora
        does not implement. The message names the first such feature.
        """
        values = _flatten_rope(values)
        if values.get("model_type") == "mistral":
            values = {**MISTRAL_DEFAULTS, **values}
        for name, accepted in ACCEPTED.items():
            if name in values and values[name] not in accepted:
                raise ValueError(
                    f"the model's config requires {name} = {values[name]!r}, which minilora does not implement; "
                    f"supported: {' or '.join(map(repr, accepted))}"
                )
        required = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
        absent = [name for name in required if name not in values]
        if absent:
            raise ValueError(f"the model's config lacks {', '.join(absent)}")
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{**HUGGING_FACE_DEFAULTS, **{k: v for k, v in values.items() if k in known}})

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of a config.json that old and new versions of transformers can read."""
        return {
            **dataclasses.asdict(self),
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
        }


HUGGING_FACE_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Defaults of LlamaConfig in transformers for options missing from config.json; most differ from those above."""

MISTRAL_DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": 8,
    "sliding_window": 4096,
    "max_position_embeddings": 131072,
}
"""Defaults of MistralConfig in transformers for options missing from config.json, if different from Llama's."""

ACCEPTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("llama", "mistral"),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "attention_dropout": (0, 0.0),
    "rope_type": ("default",),
    "partial_rotary_factor": (1, 1.0, None),
    "sliding_window": (None,),
    "layer_types": (None,),
    "pretraining_tp": (1,),
    "quantization_config": (None,),
    "num_local_experts": (None,),
}
"""Options of the Llama family that change the computation, with the values that minilora supports."""


def _check_positive(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise ValueError unless the value is a positive number (a positive integer if the field is not a float)."""
    if value is None and field.name == "head_dim":
        return
    real = isinstance(field.default, float)
    fits = isinstance(value, numbers.Real if real else numbers.Integral) and not isinstance(value, bool)
    if not fits or not 0 < value < math.inf:
        raise ValueError(f"expected {field.name} to be a positive {'number' if real else 'integer'}, got {value!r}")


def _check_token(name: str, value: Any) -> None:
    """Raise ValueError unless the value is a token id, a list of token ids or None."""
    for token in value if isinstance(value, list | tuple) else [value]:
        if value is not None and not (isinstance(token, numbers.Integral) and int(token) >= 0):
            raise ValueError(f"expected {name} to be a token id, a list of token ids or null, got {value!r}")


def _flatten_rope(values: dict[str, Any]) -> dict[str, Any]:
    """Convert the three formats of rotary options in config files to one, with top-level rope_theta and rope_type."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    flat = {key: rope[key] for key in ("rope_theta", "rope_type", "partial_rotary_factor") if key in rope}
    if "type" in rope and "rope_type" not in rope:
        flat["rope_type"] = rope["type"]
    return {**values, **flat}


def plain_scalars(config: Any) -> None:
    """Convert the NumPy scalars among the fields of a frozen dataclass to Python numbers, in place."""
    for name, value in vars(config).items():
        if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
            object.__setattr__(config, name, value.item())
