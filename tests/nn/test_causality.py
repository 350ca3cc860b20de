"""The past does not depend on the future, rows do not depend on each other: to the last bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

few = settings(max_examples=40, deadline=None)


@st.composite
def cases(draw):
    """A config, a seed, a length and a place in it."""
    keys, group = draw(st.sampled_from([(1, 1), (1, 4), (2, 1), (2, 2), (3, 2)]))
    config = {
        "num_attention_heads": keys * group,
        "num_key_value_heads": keys,
        "head_dim": draw(st.sampled_from([2, 4, 10])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "rope_theta": draw(st.sampled_from([2.0, 100.0, 500000.0])),
        "tie_word_embeddings": draw(st.booleans()),
    }
    time = draw(st.sampled_from([2, 3, 9, 64, 65, 130]))  # attention works in blocks of 64 rows
    return config, draw(st.integers(0, 9)), time, draw(st.integers(0, time - 1))


@few
@given(cases())
def test_a_token_changes_nothing_before_it(unit_llama, draw_ids, case):
    config, seed, time, place = case
    model = unit_llama(seed, **config)
    ids = draw_ids(model, time=time, seed=seed)
    changed = ids.copy()
    changed[:, place] = (changed[:, place] + 1) % model.config.vocab_size
    before, after = model(ids).data, model(changed).data
    np.testing.assert_array_equal(before[:, :place], after[:, :place])
    assert (before[:, place] != after[:, place]).any()


@few
@given(cases())
def test_a_token_is_felt_by_all_that_follow(unit_llama, draw_ids, case):
    """The complement: a mask that hid too much would pass the test above."""
    config, seed, time, place = case
    model = unit_llama(seed, **config)
    ids = draw_ids(model, time=min(time, 12), seed=seed)
    place %= ids.shape[1]
    changed = ids.copy()
    changed[:, place] = (changed[:, place] + 1) % model.config.vocab_size
    assert (model(ids).data[:, place:] != model(changed).data[:, place:]).any(axis=-1).all()


@few
@given(cases())
def test_rows_of_a_batch_are_independent(unit_llama, draw_ids, case):
    config, seed, time, _ = case
    model = unit_llama(seed, **config)
    ids = draw_ids(model, batch=3, time=time, seed=seed)
    changed = ids.copy()
    changed[1] = (changed[1] + 1) % model.config.vocab_size
    before, after = model(ids).data, model(changed).data
    np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
    assert (before[1] != after[1]).any()


def test_a_row_in_a_batch_is_as_alone(unit_llama, draw_ids):
    model = unit_llama()
    model.astype(np.float64)
    ids = draw_ids(model, batch=3, time=20)
    together = model(ids).data
    for row in range(3):
        alone = model(ids[row : row + 1]).data
        assert np.abs(together[row : row + 1] - alone).max() < 1e-12 * np.abs(alone).max()


def test_what_the_past_says_does_not_depend_on_how_long_the_text_is(unit_llama, draw_ids):
    model = unit_llama()
    model.astype(np.float64)
    ids = draw_ids(model, time=100)
    long = model(ids).data
    for time in (1, 30, 63, 64, 65, 99):
        short = model(ids[:, :time]).data
        assert np.abs(long[:, :time] - short).max() < 1e-12 * np.abs(long).max()
