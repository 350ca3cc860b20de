"""The file formats of llama2.c, tested without its code and without a compiler."""

import itertools
import struct
import sys

import numpy as np
import pytest

from minilora.autograd import ops
from minilora.nn.attention import rotary_tables
from tests.benchmarks.interleave import Took, interleave
from tests.benchmarks.llama2c_files import answer, checkpoint, interleaved, tokenizer
from tests.benchmarks.processes import Failed, finished
from tests.unit_scale import unit_scale_llama

REPORT = "achieved tok/s: 1500.000000\n"


def small_model():
    """A model with grouped heads, so that queries and keys differ in shape, and with no two dimensions equal."""
    sizes = dict(vocab_size=10, hidden_size=16, intermediate_size=24, num_hidden_layers=3, max_position_embeddings=12)
    return unit_scale_llama(seed=1, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, **sizes)


def turned_as_in_c(x, theta=10000.0):
    """Rotate features 2i and 2i + 1 of (T, H, D), as one complex number, by the angle of the position."""
    time, _, size = x.shape
    angles = np.arange(time)[:, None] * theta ** (-np.arange(0, size, 2) / size)
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None]
    return np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape)


def test_interleaved_rows_give_the_same_attention_scores():
    model = small_model()
    c, attention = model.config, model.model.layers[1].self_attn
    x = np.random.default_rng(0).standard_normal((7, c.hidden_size))
    cos, sin = rotary_tables(c, 0, 7, x)
    ours, theirs = [], []
    for weight, heads in [(attention.q_proj.weight.data, 4), (attention.k_proj.weight.data, 2)]:
        ours.append(ops.rotary((x @ weight.T).reshape(1, 7, heads, c.head_size), cos, sin).data[0])
        theirs.append(turned_as_in_c((x @ interleaved(weight, heads).T).reshape(7, heads, c.head_size)))
    scores = [np.einsum("thd,shd->hts", q, k.repeat(2, axis=1)) for q, k in (ours, theirs)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-10, atol=1e-10)
    assert np.abs(scores[0]).max() > 1


def test_the_checkpoint_begins_with_the_sizes_and_has_each_kind_of_weight_for_all_layers():
    model = small_model()
    content = checkpoint(model)
    assert struct.unpack("=7i", content[:28]) == (16, 24, 3, 4, 2, -10, 12)
    rest = iter(np.frombuffer(content[28:], np.float32))

    def read(*shape):
        return np.array(list(itertools.islice(rest, int(np.prod(shape)))), np.float32).reshape(shape)

    w = model.state_dict()
    np.testing.assert_array_equal(read(10, 16), w["model.embed_tokens.weight"])
    kinds = {"input_layernorm": (16,), "self_attn.q_proj": (16, 16), "self_attn.k_proj": (8, 16)}
    kinds |= {"self_attn.v_proj": (8, 16), "self_attn.o_proj": (16, 16), "post_attention_layernorm": (16,)}
    kinds |= {"mlp.gate_proj": (24, 16), "mlp.down_proj": (16, 24), "mlp.up_proj": (24, 16)}
    heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}
    for kind, shape in kinds.items():
        for i, weight in enumerate(read(3, *shape)):
            expected = w[f"model.layers.{i}.{kind}.weight"]
            expected = interleaved(expected, heads[kind]) if kind in heads else expected
            np.testing.assert_array_equal(weight, expected, err_msg=f"{kind} of layer {i}")
    np.testing.assert_array_equal(read(16), w["model.norm.weight"])
    read(12, 4)  # the angles, which run.c skips
    np.testing.assert_array_equal(read(10, 16), w["lm_head.weight"])
    assert next(rest, None) is None


def test_each_token_has_two_digits_and_is_read_back():
    content = tokenizer()
    assert struct.unpack("=i", content[:4]) == (2,)
    pieces = list(struct.iter_unpack("=fi2s", content[4:]))
    assert {length for _, length, _ in pieces} == {2}
    text = b"".join(piece for _, _, piece in pieces).decode() + "\n"
    tokens, took = answer(text, f"a warning\n{REPORT}")
    np.testing.assert_array_equal(tokens, np.arange(256))
    assert took == pytest.approx(256 / 1500)
    assert isinstance(took, Took)


@pytest.mark.parametrize(
    ("text", "report"),
    [
        ("0a0", REPORT),
        ("0a0b", REPORT),
        ("\n", REPORT),
        ("0a0b\n", ""),
        ("0a0b\n", "achieved tok/s: inf\n"),
    ],
)
def test_unknown_output_is_refused(text, report):
    with pytest.raises(Failed, match="expected tokens as hexadecimal digits and a line 'achieved tok/s: NUMBER'"):
        answer(text, report)


def test_a_program_that_measures_its_own_work_is_believed():
    clock = itertools.count().__next__  # advances one second per reading, so each call takes a second
    own = itertools.cycle([0.25, 0.5, 0.75])
    programs = {"ours": lambda: 0.5, "theirs": lambda: Took(next(own))}
    times = interleave(programs, rounds=2, warm_up=0, turn=3, pause=0, clock=clock)
    assert times == {"ours": [1.0, 1.0], "theirs": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise ValueError('too large')", "ValueError: too large"),
        ("raise SystemExit('a.c: error: no x\\na.c: note: once')", "a.c: error: no x"),
        ("raise SystemExit(1)", "no error message"),
    ],
)
def test_a_process_that_fails_is_reported_in_a_line(program, reason):
    with pytest.raises(Failed, match=f"exited with status 1: {reason}$"):
        finished([sys.executable, "-c", program])


def test_processes_that_end_and_that_are_not_there():
    assert finished([sys.executable, "-c", "print('done')"]).stdout.strip() == "done"
    with pytest.raises(Failed, match="program no-such-compiler not found; install it"):
        finished(["no-such-compiler"])
