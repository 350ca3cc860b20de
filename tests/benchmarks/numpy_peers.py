"""A training step: minilora against HIPS autograd, the best-known autograd for NumPy, on the same model.

The model is written in plain NumPy, as is usual with autograd, which differentiates each operation. Both programs use
minilora's optimizer, so that they differ only in the autograd library.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd import value_and_grad
from autograd.tracer import getval

from minilora.nn import Llama, LlamaConfig
from minilora.training.groups import make_optimizer
from tests.benchmarks import ours
from tests.benchmarks.equal import Unequal, same_losses
from tests.benchmarks.interleave import Row, compare
from tests.benchmarks.ours import SETTINGS, Options, Size, Step

HIPS, GOAL = "HIPS autograd", 5.0
Weights = dict[str, Any]


def run(options: Options) -> list[Row]:
    (size,) = options.sizes(1)
    programs = steps(size)
    check = partial(same_losses, programs)
    return compare(f"full step, {size}", programs, goals={HIPS: GOAL}, check=check, **options.timing)


def steps(size: Size) -> dict[str, Callable[[], Any]]:
    """A training step of both programs, from the same weights and on the same batches."""
    circle = ours.batches(size)
    return {
        "minilora": ours.in_turn(ours.training_step(ours.fresh_model(size)), circle),
        HIPS: ours.in_turn(training_step(ours.fresh_model(size)), circle),
    }


def training_step(model: Llama) -> Step:
    """A training step with autograd on the weights of `model`."""
    named = list(model.named_parameters())
    optimizer = make_optimizer(model, SETTINGS)
    constants = turns(model.config), mask(model.config)
    loss_and_gradients = value_and_grad(lambda w, ids, targets: loss(w, model.config, constants, ids, targets))

    def step(ids: np.ndarray, targets: np.ndarray) -> float:
        value, gradients = loss_and_gradients({name: p.data for name, p in named}, ids, targets)
        for name, p in named:
            if gradients[name].dtype != np.float32:  # slower, for a reason unrelated to autograd
                raise Unequal(f"expected a float32 gradient of {name}, got {gradients[name].dtype}")
            p.grad = gradients[name]
        optimizer.clip(SETTINGS.grad_clip)
        optimizer.step(SETTINGS.lr)
        return float(value)

    return step


def loss(w: Weights, config: LlamaConfig, constants: Any, ids: np.ndarray, targets: np.ndarray) -> Any:
    """The mean cross-entropy, in nats, of the Llama with weights `w`, for ids and targets (B, T)."""
    (cos, sin), future = constants
    x = w["model.embed_tokens.weight"][ids]  # (B, T) -> (B, T, C)
    for i in range(config.num_hidden_layers):
        path = f"model.layers.{i}."
        x = x + attention(w, path, config, cos, sin, future, rms_norm(x, w[path + "input_layernorm.weight"], config))
        x = x + mlp(w, path, rms_norm(x, w[path + "post_attention_layernorm.weight"], config))
    logits = rms_norm(x, w["model.norm.weight"], config) @ w["model.embed_tokens.weight"].T
    logits = anp.reshape(logits, (-1, config.vocab_size))  # (B, T, V) -> (B·T, V)
    logits = logits - np.max(getval(logits), axis=-1, keepdims=True)
    at_target = logits[np.arange(targets.size), targets.reshape(-1)]
    return anp.mean(anp.log(anp.sum(anp.exp(logits), axis=-1)) - at_target)


def attention(w: Weights, path: str, config: LlamaConfig, cos: Any, sin: Any, future: Any, x: Any) -> Any:
    B, T, C = x.shape

    def heads(name: str) -> Any:
        y = anp.reshape(x @ w[f"{path}self_attn.{name}.weight"].T, (B, T, config.num_attention_heads, -1))
        return anp.transpose(y, (0, 2, 1, 3))  # (B, T, H, D) -> (B, H, T, D)

    q, k, v = turned(heads("q_proj"), cos, sin), turned(heads("k_proj"), cos, sin), heads("v_proj")
    scores = q @ anp.swapaxes(k, -1, -2) * config.head_size**-0.5 + future
    weights = anp.exp(scores - np.max(getval(scores), axis=-1, keepdims=True))  # autograd treats the max as a constant
    weights = weights / anp.sum(weights, axis=-1, keepdims=True)
    y = anp.reshape(anp.transpose(weights @ v, (0, 2, 1, 3)), (B, T, C))  # (B, H, T, D) -> (B, T, C)
    return y @ w[path + "self_attn.o_proj.weight"].T


def mlp(w: Weights, path: str, x: Any) -> Any:
    gate, up = x @ w[path + "mlp.gate_proj.weight"].T, x @ w[path + "mlp.up_proj.weight"].T
    return (gate / (1 + anp.exp(-gate)) * up) @ w[path + "mlp.down_proj.weight"].T


def rms_norm(x: Any, weight: Any, config: LlamaConfig) -> Any:
    return x / anp.sqrt(anp.mean(x * x, axis=-1, keepdims=True) + config.rms_norm_eps) * weight


def turned(x: Any, cos: np.ndarray, sin: np.ndarray) -> Any:
    """Apply rotary embeddings to (B, H, T, D); feature i is paired with i + D/2."""
    half = x.shape[-1] // 2
    return x * cos + anp.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin


def turns(config: LlamaConfig) -> tuple[np.ndarray, np.ndarray]:
    """The cosines and sines of all positions, each (T, D)."""
    frequencies = config.rope_theta ** (-np.arange(0, config.head_size, 2) / config.head_size)
    angles = np.tile(np.arange(config.max_position_embeddings)[:, None] * frequencies, 2)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def mask(config: LlamaConfig) -> np.ndarray:
    """The causal mask, (T, T): -inf where the key comes after the query, otherwise 0."""
    n = config.max_position_embeddings
    return np.triu(np.full((n, n), -np.inf, dtype=np.float32), k=1)
