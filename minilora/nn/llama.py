"""The Llama model: embedding, attention and MLP layers on a residual stream, final norm, output head.

The computation and the parameter names match those of Hugging Face's LlamaForCausalLM, so weights can be exchanged in
both directions (`pretrained.py`). Read `layers.py` and `attention.py` first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minilora.assets import BASE
from minilora.autograd import ops
from minilora.autograd.tensor import Tensor
from minilora.backend import Array, like
from minilora.messages import some
from minilora.nn import pretrained
from minilora.nn.attention import Attention, LayerCache, rotary_tables
from minilora.nn.choice import Choice, RowChoice, choosing, resolve
from minilora.nn.config import LlamaConfig
from minilora.nn.layers import Embedding, Linear, RMSNorm, random_weight
from minilora.nn.module import Module


class MLP(Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), applied to each token independently."""

    def __init__(self, config: LlamaConfig, rng: np.random.Generator | None) -> None:
        width, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.gate_proj = Linear(random_weight(rng, inner, width, std))
        self.up_proj = Linear(random_weight(rng, inner, width, std))
        self.down_proj = Linear(random_weight(rng, width, inner, std / (2 * config.num_hidden_layers) ** 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(ops.silu_gate(self.gate_proj(x), self.up_proj(x)))


class DecoderLayer(Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: LlamaConfig, rng: np.random.Generator | None) -> None:
        self.self_attn = Attention(config, rng)
        self.mlp = MLP(config, rng)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rotations: tuple[Array, Array], cache: LayerCache | None = None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotations, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(Module):
    """Embedding, layers and final norm: from ids (B, T) to hidden states (B, T, C)."""

    def __init__(self, config: LlamaConfig, rng: np.random.Generator | None) -> None:
        self.config = config
        self.embed_tokens = Embedding(
            random_weight(rng, config.vocab_size, config.hidden_size, config.initializer_range)
        )
        self.layers = [DecoderLayer(config, rng) for _ in range(config.num_hidden_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids: Array, cache: Cache | None = None) -> Tensor:
        start = 0 if cache is None else cache.length
        x = self.embed_tokens(ids)
        rotations = rotary_tables(self.config, start, start + ids.shape[1], x.data)
        for i, layer in enumerate(self.layers):
            x = layer(x, rotations, None if cache is None else cache.layers[i])
        return self.norm(x)


class Llama(Module):
    """A causal language model: for each position of a text, it computes logits for the next token.

    Parameters
    ----------
    config : LlamaConfig
    rng : generator for the initial weights; the same state gives bit-for-bit identical weights. None: zeros, to be
        overwritten by loading

    Attributes
    ----------
    name_or_path : the folder that the model was loaded from or saved in; "" for other weights
    """

    name_or_path: str = ""

    def __init__(self, config: LlamaConfig, rng: np.random.Generator | None) -> None:
        self.config = config
        self.model = Decoder(config, rng)
        embedding = self.model.embed_tokens.weight
        if config.tie_word_embeddings:
            self.lm_head = Linear(embedding)
        else:
            self.lm_head = Linear(random_weight(rng, config.vocab_size, config.hidden_size, config.initializer_range))

    def forward(
        self, ids: Array, cache: Cache | None = None, adapters: RowChoice | Choice | Sequence[Choice] = None
    ) -> Tensor:
        """Return logits (B, T, V) for integer ids (B, T). The ids may be on the host even if the model is on a GPU.

        Parameters
        ----------
        cache : the key-value cache of the tokens that precede the ids; extended in place
        adapters : adapters for this call only, in place of the active ones: a name, a dict of strengths by name ({} for
            the base), or a list with one entry per row of the batch, each a name, a dict, or None for the base. None:
            the active adapters. Only active adapters receive gradients; the others are frozen
        """
        ids = self._bring(ids)
        seen = 0 if cache is None else cache.length
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise ValueError(f"expected integer ids of shape (batch, time), got {ids.dtype} of shape {ids.shape}")
        if seen + ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"{seen + ids.shape[1]} tokens exceed the model's context of "
                f"{self.config.max_position_embeddings}; shorten the text"
            )
        if adapters is None:
            return self.lm_head(self.model(ids, cache))
        with choosing(resolve(self, adapters, len(ids))):
            return self.lm_head(self.model(ids, cache))

    def loss(self, ids: Array, targets: Array) -> Tensor:
        """Return the mean next-token cross-entropy in nats, over all (batch, time) positions.

        `targets` has the next token at each position: the ids, shifted by one. (Hugging Face's `labels` are the ids
        themselves, which the model shifts.)
        """
        return ops.cross_entropy(self(ids), self._bring(targets))

    def _bring(self, ids: Array) -> Array:
        """Return token ids as an array on the device of the model."""
        return like(np.asarray(ids) if isinstance(ids, list | tuple) else ids, self.model.embed_tokens.weight.data)

    def __repr__(self) -> str:
        c, sizes = self.config, super().__repr__().partition("(")[2].rstrip(")")
        lines = [
            f"Llama: {sizes}; {self.dtype} on {self.device}",
            f"  {c.num_hidden_layers} layers, hidden size {c.hidden_size}, MLP {c.intermediate_size}, "
            f"{c.num_attention_heads} heads, context {c.max_position_embeddings}, vocabulary {c.vocab_size}",
        ]
        if self.adapters:
            marks = {name: f" (active, strength {s:g})" for name, s in self.active_adapters.items()}
            names = ", ".join(name + marks.get(name, "") for name in self.adapters)
            lines.append(f"  adapters: {names}{'; merged into the weights' if self.merged else ''}")
        return "\n".join(lines)

    @property
    def tied(self) -> bool:
        """Whether the output head shares the weight of the embedding."""
        return self.lm_head.weight is self.model.embed_tokens.weight

    def new_cache(self, batch: int) -> Cache:
        """Return an empty cache for generating `batch` texts in parallel."""
        return Cache(batch, self.config, self.model.embed_tokens.weight.data)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> Llama:
        """Load a model folder in Hugging Face's layout (`pretrained.py`) onto the device "cpu" or "cuda".

        Weights of any floating-point dtype are converted to float32.
        Raises ValueError if a file is missing or invalid, the config requires a feature that minilora does not
        implement, or tensors are missing, unknown or of the wrong shape.
        """
        config, tensors = pretrained.read(folder)
        model = cls(config, rng=None)
        try:
            model.load_state_dict(tensors)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        model.name_or_path = str(Path(folder).resolve())
        return model.to(device)

    def save_pretrained(self, folder: str | Path, dtype: str = "float32") -> None:
        """Save config.json and model.safetensors, with the weights as float32 or float16.

        Raises ValueError if the model has parameters that do not belong to a plain Llama, such as adapters.
        """
        config, tensors = dataclasses.replace(self.config, tie_word_embeddings=self.tied), self.state_dict()
        extra = sorted(tensors.keys() - Llama(config, rng=None).state_dict().keys())
        if extra:
            raise ValueError(
                f"a model folder cannot store {some(extra)}; save the adapter separately (lora.save_adapter), or "
                "merge it into the weights first (lora.merge_and_unload)"
            )
        pretrained.write(folder, config, tensors, dtype)
        self.name_or_path = str(Path(folder).resolve())


class Cache:
    """The key-value cache of all layers, so that generation does not recompute past tokens."""

    def __init__(self, batch: int, config: LlamaConfig, like: Array) -> None:
        self.layers = [LayerCache(batch, config, like) for _ in range(config.num_hidden_layers)]

    @property
    def length(self) -> int:
        """The number of tokens in the cache."""
        return self.layers[0].length

    def __repr__(self) -> str:
        return f"Cache({self.length} tokens, {len(self.layers)} layers)"


def load_model(folder: str | Path = BASE, device: str = "cpu") -> Llama:
    """Load the packaged base model, or a model folder in Hugging Face's layout (see `Llama.from_pretrained`)."""
    return Llama.from_pretrained(folder, device)
