"""llama2.c's formats: the weights and the tokenizer that `run.c` reads, and its output.

The weights are in llama2.c's first format ("version 0"), which `run.c` reads: seven 32-bit integers, then float32
tensors without names, each kind for all layers together.
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
    """Return the checkpoint of a model with an untied head."""
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
        np.zeros((c.max_position_embeddings, c.head_size)),  # formerly the rotary cosines and sines; run.c skips them
        w["lm_head.weight"],
    ]
    numbers = [c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.num_attention_heads, c.kv_heads]
    vocabulary = -c.vocab_size  # negative: the head is not tied to the embedding
    header = struct.pack("=7i", *numbers, vocabulary, c.max_position_embeddings)
    return header + b"".join(tensor.astype(np.float32).tobytes() for tensor in tensors)


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a projection (…, heads·D, C) for llama2.c.

    llama2.c rotates features 2i and 2i + 1 of a head together; Hugging Face's Llama and minilora rotate i and i + D/2.
    """
    *layers, rows, width = weight.shape
    halves = weight.reshape(*layers, heads, 2, rows // heads // 2, width)
    return halves.swapaxes(-3, -2).reshape(weight.shape)  # (…, H, 2, D/2, C) -> (…, H, D/2, 2, C) -> (…, H·D, C)


def tokenizer() -> bytes:
    """Return a vocabulary in which each of the 256 tokens is written as two hexadecimal digits.

    This makes it possible to parse the output, since `run.c` omits most bytes that are not printable. It could not
    encode a prompt with this vocabulary, and gets none.
    """
    pieces = (struct.pack("=fi2s", 0.0, 2, b"%02x" % token) for token in range(256))  # a score, a length, the digits
    return struct.pack("=i", 2) + b"".join(pieces)  # the maximum length, then all pieces


def answer(text: str, report: str) -> tuple[np.ndarray, Took]:
    """Return the tokens that `run.c` generated, and the seconds that they take at the speed that it reports.

    Raises Failed for any other output, including the infinite speed that `run.c` reports after less than a millisecond.
    """
    speed = SPEED.search(report)
    if not DIGITS.fullmatch(text) or not speed:
        raise Failed(
            "expected tokens as hexadecimal digits and a line 'achieved tok/s: NUMBER' from llama2.c, got "
            f"{text[-40:]!r} and {report[-80:]!r}; use a clone whose run.c reads version 0 checkpoints"
        )
    tokens = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    return tokens, Took(len(tokens) / float(speed[1]))
