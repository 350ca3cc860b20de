"""llama2.c's files: a model's weights and a tokenizer as `run.c` reads them, and what it writes.

The weights are in its first format ("version 0"), the one that `run.c` reads: seven integers of 32 bits, then tensors
of float32 without names, each kind for all layers together.
"""

from __future__ import annotations

import re
import struct

import numpy as np

from minilora.nn import Llama
from tests.benchmarks.interleave import Took
from tests.benchmarks.processes import Failed

DIGITS = re.compile(r"(?:[0-9a-f]{2})+\n")
SPEED = re.compile(r"^achieved tok/s: (\d+\.\d+)$", re.MULTILINE)


def checkpoint(model: Llama) -> bytes:
    """The weights of a model whose head has a table of its own."""
    c, w = model.config, model.state_dict()

    def all_layers(name: str) -> np.ndarray:
        return np.stack([w[f"model.layers.{i}.{name}.weight"] for i in range(c.num_hidden_layers)])

    tensors = [
        w["model.embed_tokens.weight"],
        all_layers("input_layernorm"),
        interleaved(all_layers("self_attn.q_proj"), c.num_attention_heads),
        interleaved(all_layers("self_attn.k_proj"), c.kv_heads),
        *map(all_layers, ("self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm")),
        *map(all_layers, ("mlp.gate_proj", "mlp.down_proj", "mlp.up_proj")),
        w["model.norm.weight"],
        np.zeros((c.max_position_embeddings, c.head_size)),  # once the angles' cosines and sines; they are skipped now
        w["lm_head.weight"],
    ]
    numbers = [c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.num_attention_heads, c.kv_heads]
    vocabulary = -c.vocab_size  # negative: the head's table is not the embedding's
    header = struct.pack("=7i", *numbers, vocabulary, c.max_position_embeddings)
    return header + b"".join(tensor.astype(np.float32).tobytes() for tensor in tensors)


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a projection (…, heads·D, C) in the order of llama2.c.

    It turns features 2i and 2i + 1 of a head together, where Hugging Face's Llama and minilora turn i and i + D/2.
    """
    *layers, rows, width = weight.shape
    halves = weight.reshape(*layers, heads, 2, rows // heads // 2, width)
    return halves.swapaxes(-3, -2).reshape(weight.shape)  # (…, H, 2, D/2, C) -> (…, H, D/2, 2, C) -> (…, H·D, C)


def tokenizer() -> bytes:
    """A vocabulary in which each of the 256 tokens is written as two hexadecimal digits.

    So a text can be read back: of bytes, `run.c` would leave out most that are no printable character. It could not
    read a prompt with this vocabulary, and is given none.
    """
    pieces = (struct.pack("=fi2s", 0.0, 2, b"%02x" % token) for token in range(256))  # a score, a length, the digits
    return struct.pack("=i", 2) + b"".join(pieces)  # the longest piece, then all


def answer(text: str, report: str) -> tuple[np.ndarray, Took]:
    """The tokens that `run.c` wrote, and the seconds that they take at the speed which it reports.

    Raises Failed when it wrote anything else. After less than a millisecond the speed that it reports is infinite.
    """
    speed = SPEED.search(report)
    if not DIGITS.fullmatch(text) or not speed:
        raise Failed(
            "expected tokens as hexadecimal digits and a line 'achieved tok/s: NUMBER' from llama2.c, got "
            f"{text[-40:]!r} and {report[-80:]!r}; give a clone whose run.c reads checkpoints of version 0"
        )
    tokens = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    return tokens, Took(len(tokens) / float(speed[1]))
