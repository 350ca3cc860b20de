"""Self-attention with rotary positions, grouped heads, and a cache of past keys and values for generation."""

from __future__ import annotations

import numpy as np

from minilora.autograd import ops
from minilora.autograd.tensor import Tensor
from minilora.backend import Array, array_module
from minilora.nn.config import LlamaConfig
from minilora.nn.layers import Linear, random_weight
from minilora.nn.module import Module


class Attention(Module):
    """Four projections around causal attention: q, k, v come from x; o mixes the heads' outputs."""

    def __init__(self, config: LlamaConfig, rng: np.random.Generator | None) -> None:
        width, std = config.hidden_size, config.initializer_range
        self.head_dim = config.head_size
        queries, keys = config.num_attention_heads * self.head_dim, config.kv_heads * self.head_dim
        self.q_proj = Linear(random_weight(rng, queries, width, std))
        self.k_proj = Linear(random_weight(rng, keys, width, std))
        self.v_proj = Linear(random_weight(rng, keys, width, std))
        # What is added to the residual stream 2L times is drawn smaller, so that the sum keeps its scale (GPT-2).
        self.o_proj = Linear(random_weight(rng, width, queries, std / (2 * config.num_hidden_layers) ** 0.5))

    def forward(self, x: Tensor, turns: tuple[Array, Array], cache: LayerCache | None = None) -> Tensor:
        """x is (B, T, C); `turns` are the cosines and sines of its T positions, each (T, 1, D/2)."""
        B, T, _ = x.shape
        q = ops.rotary(self.q_proj(x).reshape(B, T, -1, self.head_dim), *turns)  # (B, T, H·D) -> (B, T, H, D)
        k = ops.rotary(self.k_proj(x).reshape(B, T, -1, self.head_dim), *turns)  # (B, T, G·D) -> (B, T, G, D)
        v = self.v_proj(x).reshape(B, T, -1, self.head_dim)
        q, k, v = (t.transpose(0, 2, 1, 3) for t in (q, k, v))  # (B, T, H, D) -> (B, H, T, D)
        if cache is not None:
            k, v = cache.extend(k, v)
        heads = ops.causal_attention(q, k, v)
        return self.o_proj(heads.transpose(0, 2, 1, 3).reshape(B, T, -1))  # (B, H, T, D) -> (B, T, H·D)


class LayerCache:
    """One layer's keys and values of the tokens seen so far, in arrays that grow with the text."""

    def __init__(self, batch: int, config: LlamaConfig, like: Array) -> None:
        shape = (batch, config.kv_heads, 0, config.head_size)
        self.keys, self.values = np.empty_like(like, shape=shape), np.empty_like(like, shape=shape)
        self.length = 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new tokens, (B, G, T, D); return those of all tokens, (B, G, S, D)."""
        if k.requires_grad or v.requires_grad:
            raise ValueError("a cache holds no gradients: generate inside `with no_grad():`")
        stop = self.length + k.shape[2]
        if stop > self.keys.shape[2]:
            room = max(stop, 2 * self.keys.shape[2])  # so that all copies together take no longer than the text itself
            self.keys, self.values = (self._with_room(array, room) for array in (self.keys, self.values))
        self.keys[:, :, self.length : stop] = k.data
        self.values[:, :, self.length : stop] = v.data
        self.length = stop
        return Tensor(self.keys[:, :, :stop]), Tensor(self.values[:, :, :stop])

    def _with_room(self, array: Array, room: int) -> Array:
        larger = np.empty_like(array, shape=(*array.shape[:2], room, array.shape[3]))
        larger[:, :, : self.length] = array[:, :, : self.length]
        return larger


def rotary_turns(config: LlamaConfig, start: int, stop: int, like: Array) -> tuple[Array, Array]:
    """Cosines and sines of position × theta^(-2i/D), for positions start … stop - 1 and i < D/2; each (T, 1, D/2).

    Of the type and on the device of `like`. Worked out in float64: at position 10,000 a float32 angle would already be
    off by 3e-4 radians.
    """
    xp = array_module(like)
    frequencies = config.rope_theta ** (-xp.arange(0, config.head_size, 2) / config.head_size)
    angles = xp.arange(start, stop)[:, None, None] * frequencies
    return xp.cos(angles).astype(like.dtype), xp.sin(angles).astype(like.dtype)
