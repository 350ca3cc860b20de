"""Greedy generation with a cache gives the same tokens as transformers' `generate`, with and without an adapter."""

import numpy as np
import pytest

from minilora import lora
from minilora.generation import Sampler, generate

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.oracle

GREEDY = Sampler(temperature=0)


def their_tokens(model, ids, tokens):
    batch = torch.tensor(ids)
    with torch.no_grad():
        out = model.generate(
            input_ids=batch, attention_mask=torch.ones_like(batch), max_new_tokens=tokens, do_sample=False
        )
    return out[:, ids.shape[1] :].numpy()


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_greedy(key_heads, unit_llama, in_transformers, draw_ids):
    model = unit_llama(seed=12, num_key_value_heads=key_heads, tie_word_embeddings=False)
    ids = draw_ids(model, batch=3, time=20)
    expected = their_tokens(in_transformers(model), ids, 60)
    assert len(np.unique(expected)) > 5  # not just one repeated token
    np.testing.assert_array_equal(np.stack(generate(model, list(ids), 60, GREEDY)), expected)


def test_greedy_with_an_adapter(tmp_path, unit_llama, peft_adapted, in_transformers, draw_ids):
    model = unit_llama(seed=13, tie_word_embeddings=False)
    ids = draw_ids(model, time=20)
    base = their_tokens(in_transformers(model), ids, 40)
    adapted = peft_adapted(model, target_modules="all-linear", r=4)
    adapted.save_pretrained(tmp_path)
    lora.load_adapter(model, tmp_path)
    expected = their_tokens(adapted, ids, 40)
    np.testing.assert_array_equal(np.stack(generate(model, list(ids), 40, GREEDY)), expected)
    with lora.disabled(model):
        np.testing.assert_array_equal(np.stack(generate(model, list(ids), 40, GREEDY)), base)
    assert not np.array_equal(base, expected)
