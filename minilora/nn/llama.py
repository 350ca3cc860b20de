"""A small Llama: embedding, layers of attention and MLP on a residual stream, norm, output head.

The same computation as Hugging Face's LlamaForCausalLM, under the same parameter names, so that weights pass both
ways (`pretrained.py`). Read `layers.py` and `attention.py` first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minilora.autograd import ops
from minilora.autograd.tensor import Tensor
from minilora.backend import Array, like
from minilora.messages import some
from minilora.nn import pretrained
from minilora.nn.attention import Attention, LayerCache, rotary_turns
from minilora.nn.choice import Choice, RowChoice, choosing, resolve
from minilora.nn.config import LlamaConfig
from minilora.nn.layers import Embedding, Linear, RMSNorm, random_weight
from minilora.nn.module import Module


class MLP(Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), computed for each token alone."""

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

    def forward(self, x: Tensor, turns: tuple[Array, Array], cache: LayerCache | None = None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turns, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(Module):
    """From ids (B, T) to the final hidden states (B, T, C)."""

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
        turns = rotary_turns(self.config, start, start + ids.shape[1], x.data)
        for i, layer in enumerate(self.layers):
            x = layer(x, turns, None if cache is None else cache.layers[i])
        return self.norm(x)


class Llama(Module):
    """A causal language model: for each place in a text, scores for what comes next.

    Parameters
    ----------
    config : LlamaConfig
    rng : draws the fresh weights; the same generator state gives the same bytes. None: zeros, to be loaded over
    """

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
        """Logits (B, T, V) for integer ids (B, T), which may lie on the host wherever the model does.

        Parameters
        ----------
        cache : what has been seen before; the ids continue it
        adapters : for this call alone, in place of the active ones: a name, names with strengths ({} for the base),
            or a list that has one of these, or None for the base, for each row of the batch. Gradients reach the
            active ones alone: what is not active is frozen
        """
        ids = self._bring(ids)
        seen = 0 if cache is None else cache.length
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise ValueError(f"expected integer ids of shape (batch, time), got {ids.dtype} of shape {ids.shape}")
        if seen + ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"{seen + ids.shape[1]} tokens are more than the model's context of "
                f"{self.config.max_position_embeddings}; shorten the text"
            )
        if adapters is None:
            return self.lm_head(self.model(ids, cache))
        with choosing(resolve(self, adapters, len(ids))):
            return self.lm_head(self.model(ids, cache))

    def loss(self, ids: Array, targets: Array) -> Tensor:
        """Mean next-token cross-entropy in nats, over all (batch, time) places.

        `targets` are what comes next at each place: the ids one token later. (Hugging Face's `labels` are the ids
        themselves, shifted inside.)
        """
        return ops.cross_entropy(self(ids), self._bring(targets))

    def _bring(self, ids: Array) -> Array:
        """Token ids as an array on the model's device."""
        return like(np.asarray(ids) if isinstance(ids, list | tuple) else ids, self.model.embed_tokens.weight.data)

    @property
    def tied(self) -> bool:
        """Whether the output head's weight is the embedding's table."""
        return self.lm_head.weight is self.model.embed_tokens.weight

    def new_cache(self, batch: int) -> Cache:
        """An empty cache for generating `batch` texts side by side."""
        return Cache(batch, self.config, self.model.embed_tokens.weight.data)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> Llama:
        """Open a model folder in Hugging Face's layout (`pretrained.py`), on the device "cpu" or "cuda".

        Raises ValueError when a file is missing or cut short, the config needs a feature that minilora does not have,
        or tensors are missing, unknown or of another shape.
        """
        config, tensors = pretrained.read(folder)
        model = cls(config, rng=None)
        try:
            model.load_state_dict(tensors)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        return model.to(device)

    def save_pretrained(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write config.json and model.safetensors, the weights as float32 or float16.

        Raises ValueError when the model holds parameters that the layout has no place for, such as adapters.
        """
        config, tensors = dataclasses.replace(self.config, tie_word_embeddings=self.tied), self.state_dict()
        extra = sorted(tensors.keys() - Llama(config, rng=None).state_dict().keys())
        if extra:
            raise ValueError(
                f"a model folder has no place for {some(extra)}; save the adapter on its own (lora.save_adapter), or "
                "merge it into the weights first (lora.merge_and_unload)"
            )
        pretrained.write(folder, config, tensors, dtype)


class Cache:
    """The keys and values of all layers, for generation without computing the past again."""

    def __init__(self, batch: int, config: LlamaConfig, like: Array) -> None:
        self.layers = [LayerCache(batch, config, like) for _ in range(config.num_hidden_layers)]

    @property
    def length(self) -> int:
        """How many tokens have been seen."""
        return self.layers[0].length
