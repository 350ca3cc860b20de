"""The same model in idiomatic PyTorch: `nn.Linear`, `F.rms_norm`, `scaled_dot_product_attention`.

Parameters have minilora's names without the leading `model.`, so that its weights can be loaded. LoRA is implemented as
in the paper's code and in PEFT: W x + B (A x) · s, with W, the norms and the embedding frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.adapters.attach import hosts
from minilora.nn import Llama, LlamaConfig
from tests.benchmarks.ours import SETTINGS, Batch, Step

MakeLinear = Callable[[int, int], nn.Module]


class LoraLinear(nn.Linear):
    """A frozen Linear with one adapter."""

    def __init__(self, n_in: int, n_out: int, r: int, scale: float) -> None:
        super().__init__(n_in, n_out, bias=False)
        self.lora_A, self.lora_B = nn.Parameter(torch.empty(r, n_in)), nn.Parameter(torch.empty(n_out, r))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scale


class RMSNorm(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(config.hidden_size)), config.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, config: LlamaConfig, linear: MakeLinear) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = config.num_attention_heads, config.kv_heads, config.head_size
        self.q_proj = linear(config.hidden_size, self.heads * self.head_size)
        self.k_proj = linear(config.hidden_size, self.kv_heads * self.head_size)
        self.v_proj = linear(config.hidden_size, self.kv_heads * self.head_size)
        self.o_proj = linear(self.heads * self.head_size, config.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, self.heads, self.head_size).transpose(1, 2)  # (B, T, H·D) -> (B, H, T, D)
        k = self.k_proj(x).view(B, T, self.kv_heads, self.head_size).transpose(1, 2)
        v = self.v_proj(x).view(B, T, self.kv_heads, self.head_size).transpose(1, 2)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))  # (B, H, T, D) -> (B, T, H·D)


class MLP(nn.Module):
    def __init__(self, config: LlamaConfig, linear: MakeLinear) -> None:
        super().__init__()
        self.gate_proj = linear(config.hidden_size, config.intermediate_size)
        self.up_proj = linear(config.hidden_size, config.intermediate_size)
        self.down_proj = linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, config: LlamaConfig, linear: MakeLinear) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(config, linear), MLP(config, linear)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(config), RMSNorm(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class TorchLlama(nn.Module):
    """A Llama with a tied head. Maps ids and targets, each (B, T), to the mean cross-entropy in nats."""

    def __init__(self, config: LlamaConfig, linear: MakeLinear) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, linear) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config)
        frequencies = config.rope_theta ** (-np.arange(0, config.head_size, 2) / config.head_size)
        angles = np.tile(np.arange(config.max_position_embeddings)[:, None] * frequencies, 2)  # (T, D)
        self.register_buffer("cos", torch.tensor(np.cos(angles), dtype=torch.float32), persistent=False)
        self.register_buffer("sin", torch.tensor(np.sin(angles), dtype=torch.float32), persistent=False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits = F.linear(self.norm(x), self.embed_tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary embeddings to (B, H, T, D); feature i is paired with i + D/2."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def from_minilora(model: Llama) -> TorchLlama:
    """Return the same model with copies of the weights, and of the adapter `default` if there is one."""
    adapted = [module for module in hosts(model).values()]
    linear: MakeLinear = partial(nn.Linear, bias=False)
    if adapted:
        r, scale = adapted[0].lora_A["default"].shape[0], adapted[0].scaling["default"]
        linear = partial(LoraLinear, r=r, scale=scale)
    theirs = TorchLlama(model.config, linear)
    names = {name: name.removeprefix("model.").removesuffix(".default") for name in model.state_dict()}
    theirs.load_state_dict({names[name]: torch.tensor(array) for name, array in model.state_dict().items()})
    for name, p in theirs.named_parameters():
        p.requires_grad_(not adapted or "lora_" in name)
    return theirs


def training_step(parameters: Iterable[nn.Parameter], loss_of: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """A step on the trainable parameters: fused AdamW, weight decay on matrices only, gradient norm clipped to 1."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": SETTINGS.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=SETTINGS.lr,
        betas=(SETTINGS.beta1, SETTINGS.beta2),
        eps=1e-8,
        fused=True,
    )

    def step(ids: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, SETTINGS.grad_clip)
        optimizer.step()
        return loss.detach()

    return step


def as_tensors(circle: list[Batch]) -> list[tuple[Tensor, Tensor]]:
    """Convert batches to PyTorch tensors."""
    return [(torch.tensor(ids), torch.tensor(targets)) for ids, targets in circle]


def why_not_compiled() -> str:
    """Return why `torch.compile` does not work here, or an empty string if it does. It needs a C++ compiler."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(8))
    except Exception as error:  # the type of the exception depends on the version
        reason = "no C++ compiler" if "InvalidCxxCompiler" in str(error) else type(error).__name__
        return f"torch.compile does not work here ({reason})"
    return ""
