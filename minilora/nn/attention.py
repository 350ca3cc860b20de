"""Self-attention with rotary position embeddings, grouped heads and a key-value cache for generation."""

from __future__ import annotations

import numpy as np

from minilora.autograd import ops
from minilora.autograd.tensor import Tensor
from minilora.backend import Array, array_module
from minilora.nn.config import LlamaConfig
from minilora.nn.layers import Linear, random_weight
from minilora.nn.module import Module


class Attention(Module):
    """Causal self-attention: q, k and v are projections of x; o combines the outputs of the heads."""

    def __init__(self, config: LlamaConfig, rng: np.random.Generator | None) -> None:
        width, std = config.hidden_size, config.initializer_range
        self.head_dim = config.head_size
        queries, keys = config.num_attention_heads * self.head_dim, config.kv_heads * self.head_dim
        self.q_proj = Linear(random_weight(rng, queries, width, std))
        self.k_proj = Linear(random_weight(rng, keys, width, std))
        self.v_proj = Linear(random_weight(rng, keys, width, std))
        # The 2L projections that add to the residual stream start with smaller weights, to keep its scale (GPT-2).
        self.o_proj = Linear(random_weight(rng, width, queries, std / (2 * config.num_hidden_layers) ** 0.5))

    def forward(self, x: Tensor, rotations: tuple[Array, Array], cache: LayerCache | None = None) -> Tensor:
        """Return the output (B, T, C) for x (B, T, C); `rotations` are the `rotary_tables` of the T positions of x."""
        B, T, _ = x.shape
        q = ops.rotary(self.q_proj(x).reshape(B, T, -1, self.head_dim), *rotations)  # (B, T, H·D) -> (B, T, H, D)
        k = ops.rotary(self.k_proj(x).reshape(B, T, -1, self.head_dim), *rotations)  # (B, T, G·D) -> (B, T, G, D)
        v = self.v_proj(x).reshape(B, T, -1, self.head_dim)
        q, k, v = (t.transpose(0, 2, 1, 3) for t in (q, k, v))  # (B, T, H, D) -> (B, H, T, D)
        if cache is not None:
            k, v = cache.extend(k, v)
        heads = ops.causal_attention(q, k, v)
        return self.o_proj(heads.transpose(0, 2, 1, 3).reshape(B, T, -1))  # (B, H, T, D) -> (B, T, H·D)


class LayerCache:
    """The keys and values of one layer for all past tokens, in arrays that grow as needed."""

    def __init__(self, batch: int, config: LlamaConfig, like: Array) -> None:
        shape = (batch, config.kv_heads, 0, config.head_size)
        self.keys, self.values = np.empty_like(like, shape=shape), np.empty_like(like, shape=shape)
        self.length = 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new tokens, (B, G, T, D). Return those of all tokens, (B, G, S, D)."""
        if k.requires_grad or v.requires_grad:
            raise ValueError("a cache cannot hold gradients; generate inside `with no_grad():`")
        stop = self.length + k.shape[2]
        if stop > self.keys.shape[2]:
            room = max(stop, 2 * self.keys.shape[2])  # doubling keeps the total cost of copies linear
            self.keys, self.values = (self._with_room(array, room) for array in (self.keys, self.values))
        self.keys[:, :, self.length : stop] = k.data
        self.values[:, :, self.length : stop] = v.data
        self.length = stop
        return Tensor(self.keys[:, :, :stop]), Tensor(self.values[:, :, :stop])

    def _with_room(self, array: Array, room: int) -> Array:
        larger = np.empty_like(array, shape=(*array.shape[:2], room, array.shape[3]))
        larger[:, :, : self.length] = array[:, :, : self.length]
        return larger


def rotary_tables(config: LlamaConfig, start: int, stop: int, like: Array) -> tuple[Array, Array]:
    """Cosines and sines of position × theta^(-2i/D), for positions start … stop - 1 and i < D/2; each (T, 1, D/2).

    They have the dtype and device of `like`, but are computed in float64: at position 10,000, a float32 angle would be
    off by 3e-4 radians.
    """
    xp = array_module(like)
    frequencies = config.rope_theta ** (-xp.arange(0, config.head_size, 2) / config.head_size)
    angles = xp.arange(start, stop)[:, None, None] * frequencies
    return xp.cos(angles).astype(like.dtype), xp.sin(angles).astype(like.dtype)
