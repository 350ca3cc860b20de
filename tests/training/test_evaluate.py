"""Evaluation is deterministic: fixed windows, no dropout, and no side effects on the model or its generator."""

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.training import evaluate


def by_hand(model, ids, context, windows):
    """Return the mean of -log softmax(logits)[next token] over the windows, one window at a time."""
    total = 0.0
    for start in [i * (len(ids) - context - 1) // (windows - 1) for i in range(windows)]:
        logits = model(ids[None, start : start + context]).data[0].astype(np.float64)
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        total -= np.mean(log_p[np.arange(context), ids[start + 1 : start + context + 1]])
    return total / windows


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_it_is_the_mean_over_the_same_windows_in_any_batches(batch, make_model, ids):
    model = make_model("lora")
    expected = pytest.approx(by_hand(model, ids, 5, 12), rel=1e-6)
    assert evaluate(model, ids, 5, 12, batch) == evaluate(model, ids, 5, 12, batch) == expected


def test_dropout_is_off_and_the_generator_is_left_alone(make_model, ids):
    model = make_model("lora", dropout=0.5)
    expected = evaluate(model, ids, 5, 8)
    rng = np.random.default_rng(3)
    model.train(rng)
    window = ids[None, :5]
    with_dropout = [model(window).data for _ in range(2)]
    assert (with_dropout[0] != with_dropout[1]).any()
    state = rng.bit_generator.state
    assert evaluate(model, ids, 5, 8) == expected
    assert rng.bit_generator.state == state
    assert all(module.rng is rng for _, module in model.named_modules())  # still in training mode


def test_a_model_at_rest_stays_at_rest_without_gradients_and_recording_goes_on(make_model, ids):
    model, made = make_model(), []
    loss = model.loss
    model.loss = lambda *window: made.append(loss(*window)) or made[-1]
    evaluate(model, ids, 5, 8)
    assert [(x.requires_grad, x.edges) for x in made] == [(False, ())]
    assert all(module.rng is None for _, module in model.named_modules())
    assert (Tensor(np.ones(2), requires_grad=True) * 2).requires_grad


def test_how_often_a_run_evaluates_does_not_change_what_it_learns(make_model, config, run, bits):
    models = [make_model("lora", dropout=0.4) for _ in range(2)]
    often, seldom = (run(model, config(eval_every=every)) for model, every in zip(models, (1, 6), strict=True))
    assert bits(models[0]) == bits(models[1])
    assert often.losses == seldom.losses
    assert set(seldom.evaluations) < set(often.evaluations)
