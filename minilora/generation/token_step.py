"""One more token for each row, on plain arrays: the forward pass that writing repeats.

The mathematics is that of `nn/llama.py` and `nn/attention.py`, rearranged to make fewer arrays; the cache is theirs.
For a single token, tensors and modules would cost twice as much as the numbers. The adapters are looked up once: those
of linears that share an input (q, k and v; gate and up) read it in one product.

In the shapes, N is the number of rows, C the model's width, H the heads of the queries, G those of the keys, D a head's
width, S the tokens so far, V the vocabulary, R the rank that a row's adapters have together.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.adapters.host import AdaptedLinear
from minilora.autograd.tensor import Tensor
from minilora.backend import Array, like
from minilora.nn import Cache, Embedding, Linear, Llama, LlamaConfig, RMSNorm
from minilora.nn.attention import Attention, LayerCache, rotary_turns
from minilora.nn.choice import RowChoice
from minilora.nn.llama import MLP, Decoder, DecoderLayer

KNOWN = {Llama, Decoder, DecoderLayer, Attention, MLP, RMSNorm, Embedding, AdaptedLinear}
"""The modules whose mathematics is written down here. Other Linears may be of any kind."""


def can_step(model: Llama) -> bool:
    """Whether the model is not in training, and made of known modules, none with a `forward` put into it."""
    modules = [module for _, module in model.named_modules()]
    if model.rng is not None or any("forward" in vars(module) for module in modules):
        return False
    return all(type(m) in KNOWN or (isinstance(m, Linear) and not isinstance(m, AdaptedLinear)) for m in modules)


class TokenStep:
    """The model's weights, and the adapters that each row uses, laid out for single tokens."""

    def __init__(self, model: Llama, rows: RowChoice | None) -> None:
        self.embedding = model.model.embed_tokens.weight.data
        self.layers = [LayerStep(layer, model.config, rows) for layer in model.model.layers]
        self.norm, self.head = Norm(model.model.norm), Products([model.lm_head], rows)
        cos, sin = rotary_turns(model.config, 0, model.config.max_position_embeddings, self.embedding)  # (T, 1, D/2)
        self.turns = np.stack([cos, cos], axis=2), np.stack([-sin, sin], axis=2)  # (T, 1, 2, D/2), for both halves

    def __call__(self, tokens: Array, cache: Cache) -> Array:
        """Logits (N, V) for what comes after `tokens` (N,), whose past is in the cache; they are added to it."""
        x = self.embedding[like(tokens, self.embedding)]  # (N,) -> (N, C)
        cos, sin = (table[cache.length] for table in self.turns)  # (1, 2, D/2)
        for layer, past in zip(self.layers, cache.layers, strict=True):
            x = layer(x, cos, sin, past)
        (logits,) = self.head(self.norm(x))
        return logits


class LayerStep:
    """x + attention(norm(x)), then x + mlp(norm(x)), for one token of each row: (N, C) -> (N, C)."""

    def __init__(self, layer: DecoderLayer, config: LlamaConfig, rows: RowChoice | None) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.between = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        self.qkv = Products([attention.q_proj, attention.k_proj, attention.v_proj], rows)
        self.o, self.down = Products([attention.o_proj], rows), Products([mlp.down_proj], rows)
        self.gate_up = Products([mlp.gate_proj, mlp.up_proj], rows)
        self.heads = config.kv_heads, config.num_attention_heads // config.kv_heads, config.head_size
        self.scale = float(config.head_size) ** -0.5

    def __call__(self, x: Array, cos: Array, sin: Array, past: LayerCache) -> Array:
        (o,) = self.o(self._attend(x, cos, sin, past))
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

    def _attend(self, x: Array, cos: Array, sin: Array, past: LayerCache) -> Array:
        """What the heads read from all tokens so far, (N, H·D)."""
        q, k, v = self.qkv(self.before(x))
        (N, _), (G, group, D) = x.shape, self.heads
        stop = past.length + 1
        past.keys[:, :, past.length] = turned(k, cos, sin).reshape(N, G, D)
        past.values[:, :, past.length] = v.reshape(N, G, D)
        past.length = stop
        q = turned(q, cos, sin).reshape(N, G, group, D)
        e = q @ past.keys[:, :, :stop].transpose(0, 1, 3, 2)  # (N, G, H/G, S)
        e *= self.scale
        e -= e.max(axis=-1, keepdims=True)
        np.exp(e, out=e)
        seen = e @ past.values[:, :, :stop]  # (N, G, H/G, S) @ (N, G, S, D) -> (N, G, H/G, D)
        seen /= e.sum(axis=-1, keepdims=True)
        return seen.reshape(N, -1)


class Norm:
    """x · weight / √(mean(x²) + ε), over the last axis; with width C: x · weight √C / √(Σx² + C ε)."""

    def __init__(self, norm: RMSNorm) -> None:
        width = norm.weight.shape[0]
        self.weight, self.floor = norm.weight.data * float(width) ** 0.5, width * norm.eps

    def __call__(self, x: Array) -> Array:
        squares = np.einsum("nc,nc->n", x, x)[:, None]
        squares += self.floor
        return x * self.weight / np.sqrt(squares)


class Products:
    """x Wᵀ for each of some linears that share their input, with the updates of the rows' adapters."""

    def __init__(self, linears: list[Linear], rows: RowChoice | None) -> None:
        self.products = [_product(linear) for linear in linears]
        self.A: Array | None = None
        self.B: list[tuple[int, slice, Array]] = []
        hosts = [(i, linear) for i, linear in enumerate(linears) if isinstance(linear, AdaptedLinear)]
        updates = [(i, host.row_updates(rows)) for i, host in hosts if not host.merged]  # W has the merged ones
        self.others = [(i, update) for i, update in updates if update.others]
        tables = [(i, update.table) for i, update in updates if update.table]
        if tables:
            self.A = np.concatenate([A.data for _, (A, _) in tables], axis=1)  # (N or 1, sum of R, in)
            ends = np.cumsum([A.shape[1] for _, (A, _) in tables])
            parts = zip(tables, ends, strict=True)
            self.B = [(i, slice(end - B.shape[1], end), B.data) for (i, (_, B)), end in parts]

    def __call__(self, x: Array) -> list[Array]:
        ys = [product(x) for product in self.products]
        hs = [(i, update, Tensor(ys[i].copy())) for i, update in self.others] if self.others else ()
        if self.A is not None:
            self._add_low_rank(ys, x)
        for i, update, h in hs:
            ys[i] = update.add_others(Tensor(ys[i]), h, Tensor(x)).data
        return ys

    def _add_low_rank(self, ys: list[Array], x: Array) -> None:
        assert self.A is not None
        if len(self.A) == 1:  # the same for all rows
            low = x @ self.A[0].T  # (N, in) -> (N, sum of R)
            for i, part, B in self.B:
                ys[i] += low[:, part] @ B[0]
        else:
            low = (self.A @ x[:, :, None])[:, None, :, 0]  # (N, sum of R, in) @ (N, in, 1) -> (N, 1, sum of R)
            for i, part, B in self.B:
                ys[i] += (low[:, :, part] @ B)[:, 0]  # (N, 1, R) @ (N, R, out) -> (N, out)


def _product(linear: Linear) -> Callable[[Array], Array]:
    """x -> x Wᵀ on arrays. A Linear that stores W in another form computes it by itself."""
    if isinstance(linear, AdaptedLinear) and not linear.merged:
        return _product(linear.base)
    if type(linear).forward not in (Linear.forward, AdaptedLinear.forward):
        return lambda x: linear(Tensor(x)).data
    weight = linear.weight.data.T
    return lambda x: x.dot(weight)  # for so small a product half a microsecond less than `@`


def turned(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary positions on (N, heads · D), the two halves of each head one after the other: (N, heads, 2, D/2)."""
    halves = x.reshape(len(x), -1, *cos.shape[1:])
    return halves * cos + halves[:, :, ::-1] * sin
