"""An adapter on an output head that shares its weight with the embedding."""

import numpy as np
import pytest

from minilora import lora
from minilora.nn import Llama


@pytest.fixture
def model(unit_llama, attach):
    return attach(unit_llama(tie_word_embeddings=True), target_modules=["lm_head", "q_proj"])


def test_the_adapter_moves_the_head_and_not_the_embedding(model, unit_llama, ids):
    plain = unit_llama()
    np.testing.assert_array_equal(model.model.embed_tokens(ids).data, plain.model.embed_tokens(ids).data)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not np.allclose(model(ids).data, plain(ids).data)


def test_merging_leaves_the_embedding_alone(model, ids):
    table = model.model.embed_tokens.weight
    before, apart = table.data.tobytes(), model(ids).data
    lora.merge(model)
    assert model.model.embed_tokens.weight is table
    assert table.data.tobytes() == before
    assert model.lm_head.weight is not table
    assert np.abs(model(ids).data - apart).max() < 1e-5 * np.abs(apart).max()
    lora.unmerge(model)
    assert model.lm_head.weight is table
    np.testing.assert_array_equal(model(ids).data, apart)


def test_merged_for_good_it_is_saved_as_untied(model, tmp_path, ids):
    table = model.model.embed_tokens.weight.data.copy()
    apart = model(ids).data
    lora.merge_and_unload(model)
    model.save_pretrained(tmp_path)
    back = Llama.from_pretrained(tmp_path)
    assert not back.config.tie_word_embeddings
    np.testing.assert_array_equal(back.model.embed_tokens.weight.data, table)
    np.testing.assert_array_equal(back(ids).data, model(ids).data)
    assert np.abs(back(ids).data - apart).max() < 1e-5 * np.abs(apart).max()


def test_unloaded_it_is_tied_again(model, tmp_path):
    lora.merge(model)
    lora.unload(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    assert Llama.from_pretrained(tmp_path).config.tie_word_embeddings
