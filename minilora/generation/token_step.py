"""The forward pass for one token per row, on plain arrays: the inner loop of decoding.

It computes the same function as `nn/llama.py` and `nn/attention.py`, rearranged to allocate fewer arrays. For single
tokens, the overhead of tensors and modules would be twice the cost of the arithmetic. Adapters are looked up only when
the rows change. Linears with the same input (q, k and v; gate and up) apply their A factors in one matrix product.

In shapes, N is the number of rows, C the model's width, H the number of query heads, G the number of key heads, D the
head size, S the number of tokens so far, V the vocabulary size, and R the total rank of a row's adapters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minilora.adapters.host import AdaptedLinear
from minilora.backend import Array, like
from minilora.generation.bucket import Bucket
from minilora.generation.products import Products
from minilora.nn import Embedding, Linear, Llama, LlamaConfig, RMSNorm
from minilora.nn.attention import Attention, rotary_tables
from minilora.nn.llama import MLP, Decoder, DecoderLayer

KNOWN = {Llama, Decoder, DecoderLayer, Attention, MLP, RMSNorm, Embedding, AdaptedLinear}
"""The module types that this file reimplements. Other subclasses of Linear are called directly."""


def can_step(model: Llama) -> bool:
    """Whether `TokenStep` supports the model: in eval mode, with known module types and no replaced `forward`."""
    modules = [module for _, module in model.named_modules()]
    if model.rng is not None or any("forward" in vars(module) for module in modules):
        return False
    return all(type(m) in KNOWN or (isinstance(m, Linear) and not isinstance(m, AdaptedLinear)) for m in modules)


class TokenStep:
    """The model's weights and the adapters of each row, arranged for single-token steps."""

    def __init__(self, model: Llama) -> None:
        self.config, self.embedding = model.config, model.model.embed_tokens.weight.data
        self.layers = [LayerStep(layer, model.config) for layer in model.model.layers]
        self.norm, self.head = Norm(model.model.norm), Products([model.lm_head])
        self.choices: list[dict[str, float]] = []
        self._rotations: list[Array] = []

    def choose(self, choices: list[dict[str, float]]) -> None:
        """Set the adapters of each row; unchanged rows cost nothing."""
        if all(choice == choices[0] for choice in choices):
            choices = choices[:1]
        before, self.choices = self.choices, choices
        kept = min(len(before), len(choices)) if (len(before) == 1) == (len(choices) == 1) else 0
        changed = [row for row, choice in enumerate(choices) if row >= kept or choice != before[row]]
        for products in (self.head, *(products for layer in self.layers for products in layer.products)):
            products.choose(choices, changed)

    def __call__(self, tokens: list[int], positions: list[int], past: Sequence[Bucket]) -> Array:
        """Return the next-token logits (N, V) for N tokens at the given positions.

        The buckets in `past` hold the keys and values of earlier tokens; those of the new tokens are appended.
        """
        x = self.embedding[like(np.array(tokens), self.embedding)]  # (N,) -> (N, C)
        cos, sin = self._rotations_at(positions)
        for bucket in past:
            bucket.begin()
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, i, past)
        (logits,) = self.head(self.norm(x))
        return logits

    def _rotations_at(self, positions: list[int]) -> list[Array]:
        """Return cosines and sines for both halves of a head: (N, 1, 2, D/2), or (1, 1, 2, D/2) for equal positions."""
        first, last = min(positions), max(positions)
        if not self._rotations or last >= len(self._rotations[0]):
            cos, sin = rotary_tables(self.config, 0, 2 * last + 64, self.embedding)  # (positions, 1, D/2)
            self._rotations = [np.stack([cos, cos], axis=2), np.stack([-sin, sin], axis=2)]
        places = slice(first, first + 1) if first == last else like(np.array(positions), self.embedding)
        return [table[places] for table in self._rotations]


class LayerStep:
    """x + attention(norm(x)), then x + mlp(norm(x)), for one token of each row: (N, C) -> (N, C)."""

    def __init__(self, layer: DecoderLayer, config: LlamaConfig) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.between = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        self.qkv = Products([attention.q_proj, attention.k_proj, attention.v_proj])
        self.o, self.down = Products([attention.o_proj]), Products([mlp.down_proj])
        self.gate_up = Products([mlp.gate_proj, mlp.up_proj])
        self.products = self.qkv, self.o, self.gate_up, self.down
        self.heads = config.kv_heads, config.num_attention_heads // config.kv_heads, config.head_size
        self.scale = float(config.head_size) ** -0.5

    def __call__(self, x: Array, cos: Array, sin: Array, layer: int, past: Sequence[Bucket]) -> Array:
        (o,) = self.o(self._attend(x, cos, sin, layer, past))
        x = x + o
        gate, up = self.gate_up(self.between(x))
        up *= gate
        np.negative(gate, out=gate)
        np.exp(gate, out=gate)
        gate += 1
        up /= gate  # up · gate / (1 + e**-gate)
        (down,) = self.down(up)
        down += x
        return down

    def _attend(self, x: Array, cos: Array, sin: Array, layer: int, past: Sequence[Bucket]) -> Array:
        """Return the attention output of all heads, over all tokens so far: (N, H·D)."""
        q, k, v = self.qkv(self.before(x))
        (N, _), (G, group, D) = x.shape, self.heads
        q = rotated(q, cos, sin).reshape(N, G, group, D)
        k, v = rotated(k, cos, sin).reshape(N, G, D), v.reshape(N, G, D)
        if len(past) == 1 and past[0].slots is None:
            return self._read(q, k, v, layer, past[0]).reshape(N, -1)
        seen = np.empty_like(q)
        for bucket in past:
            rows = bucket.slots
            assert rows is not None  # None only if one bucket holds all rows, in order
            some = [array.take(rows, axis=0) for array in (q, k, v)]  # faster than indexing
            seen[rows] = self._read(some[0], some[1], some[2], layer, bucket)
        return seen.reshape(N, -1)

    def _read(self, q: Array, k: Array, v: Array, layer: int, bucket: Bucket) -> Array:
        """Return the attention output for the new tokens of one bucket's texts, (n, G, H/G, D)."""
        keys, values = bucket.extend(layer, k, v)
        e = q @ keys.transpose(0, 1, 3, 2)  # (n, G, H/G, S)
        e *= self.scale
        if not bucket.same_length:
            e += bucket.mask
        e -= e.max(axis=-1, keepdims=True)
        np.exp(e, out=e)
        seen = e @ values  # (n, G, H/G, S) @ (n, G, S, D) -> (n, G, H/G, D)
        seen /= e.sum(axis=-1, keepdims=True)
        return seen


class Norm:
    """x · weight / √(mean(x²) + ε), over the last axis; with width C: x · weight √C / √(Σx² + C ε)."""

    def __init__(self, norm: RMSNorm) -> None:
        width = norm.weight.shape[0]
        self.weight, self.floor = norm.weight.data * float(width) ** 0.5, width * norm.eps

    def __call__(self, x: Array) -> Array:
        squares = np.einsum("nc,nc->n", x, x)[:, None]
        squares += self.floor
        return x * self.weight / np.sqrt(squares)


def rotated(x: Array, cos: Array, sin: Array) -> Array:
    """Apply rotary positions to (N, heads · D); return (N, heads, 2, D/2), the two halves of each head in turn."""
    halves = x.reshape(len(x), -1, *cos.shape[2:])
    return halves * cos + halves[:, :, ::-1] * sin
