"""What a training step needs of memory: the split is exact, and what is done with is let go."""

import threading
import tracemalloc

import numpy as np
import pytest

from minilora import lora
from minilora.autograd import engine, gradients
from minilora.data.batches import sample_batch
from minilora.threads import Threads, cut
from minilora.training import memory as memory_module
from minilora.training import step as step_module
from minilora.training import step_memory
from minilora.training.step import training_step

FLOAT = 4  # bytes
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def make(make_model):
    """A model large enough that its arrays outweigh the Python objects around them."""
    return lambda method="full": make_model(method, **SHAPE)


@pytest.fixture(scope="module")
def batch(ids):
    """Twelve windows of 64 tokens, which are worked on in two pieces."""
    rows = np.stack([ids[start : start + 65] for start in range(0, 324, 27)])
    assert len(cut(12, 64)) == 2
    return rows[:, :-1], rows[:, 1:]


@pytest.fixture(scope="module")
def measured(make, batch):
    """measured[method]: of a step on one thread."""
    return {method: step_memory(make(method), batch, threads=1) for method in ("full", "lora")}


@pytest.fixture
def traced():
    """traced(): bytes in use now that were taken within the test."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_split_is_exact(method, make, measured):
    counts, found = lora.report(make(method)), measured[method]
    assert found.weights == FLOAT * counts.total  # a tied head counts once
    assert found.gradients == FLOAT * counts.trainable
    assert found.optimizer == 3 * FLOAT * counts.trainable  # two moments, and the buffer to work in
    assert found.peak == found.weights + found.gradients + found.optimizer + found.activations


def test_lora_saves_gradients_and_state_and_neither_weights_nor_activations(measured):
    full, adapted = measured["full"], measured["lora"]
    assert 5 * adapted.gradients < full.gradients
    assert 5 * adapted.optimizer < full.optimizer
    assert adapted.weights - full.weights == adapted.gradients  # A and B, which are trained
    assert adapted.activations > full.activations / 2
    assert adapted.peak < full.peak


def test_activations_are_at_least_what_the_backward_pass_needs(measured, batch):
    """Per token and layer: the inputs of seven products, in pieces of half the tokens."""
    floats = 2 * (batch[0].size // 2) * (3 * 64 + 96)
    assert measured["full"].activations > FLOAT * floats


def test_a_second_thread_works_on_a_second_piece(make, batch, monkeypatch):
    """At the moment when both have the graph of theirs."""
    together = threading.Barrier(2)
    begin = engine._ancestors

    def wait(loss):
        together.wait(10)
        return begin(loss)

    alone = step_memory(make(), batch, threads=1)
    monkeypatch.setattr(engine, "_ancestors", wait)
    assert step_memory(make(), batch, threads=2).activations > 1.5 * alone.activations


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_model_stays_as_it_is(method, make, batch, bits):
    model = make(method)
    kept, rng = np.ones_like(model.lm_head.weight.data), np.random.default_rng(5)
    model.lm_head.weight.grad = kept
    model.train(rng)
    before, arrays = bits(model), [p.data for p in model.parameters()]
    step_memory(model, batch, threads=1)
    assert bits(model) == before
    assert all(p.data is array for p, array in zip(model.parameters(), arrays, strict=True))
    assert model.lm_head.weight.grad is kept
    assert model.rng is rng
    model.eval()
    step_memory(model, batch, threads=1)
    assert model.rng is None


def test_it_measures_under_someone_elses_tracing(make, batch, measured, traced):
    np.ones(10 * measured["full"].activations, dtype=np.int8)  # a peak of theirs
    found = step_memory(make(), batch, threads=1)
    assert found.activations == pytest.approx(measured["full"].activations, rel=0.1)
    assert tracemalloc.is_tracing()


def test_it_stops_tracing_when_the_step_fails(make, batch, monkeypatch):
    most_taken = memory_module._most_taken

    def fail(work):
        return most_taken(lambda: 1 / 0)

    monkeypatch.setattr(memory_module, "_most_taken", fail)
    model = make()
    with pytest.raises(ZeroDivisionError):
        step_memory(model, batch)
    assert not tracemalloc.is_tracing()
    assert model.lm_head.weight.grad is None


def test_merged_adapters_are_refused(make, batch):
    model = make("lora")
    lora.merge(model)
    with pytest.raises(lora.AdapterError, match="cannot train while adapters are merged"):
        step_memory(model, batch)


def test_the_step_is_the_one_of_train(make_model, config, run, ids, bits):
    """With dropout, and a gradient that is longer than allowed."""
    constant = config(iters=3, lr=0.01, min_lr=0.01, warmup=0)
    trained, stepped = (make_model("lora", dropout=0.5) for _ in range(2))
    history = run(trained, constant)
    rng = np.random.default_rng(constant.seed)
    batches = [sample_batch(ids[:300], constant.batch, constant.context, rng) for _ in range(3)]
    with Threads(1) as pool:
        _, step = training_step(stepped, pool, lr=0.01)
        assert [step(batch) for batch in batches] == history.losses
    assert bits(stepped) == bits(trained)


def test_a_step_lets_go_of_its_activations(make, batch, measured, monkeypatch):
    """Where they stay until all gradients are there, it takes those on top."""
    monkeypatch.setattr(step_module, "gradients", lambda *arguments, release: gradients(*arguments))
    kept = step_memory(make(), batch, threads=1)
    assert kept.activations > measured["full"].activations + kept.gradients


def array_bytes():
    """What NumPy's arrays take, of all that is traced: exact, where Python keeps small objects for later."""
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_after_a_step_only_the_known_arrays_are_left(method, make, batch, traced, without_collector):
    with Threads(1) as pool:
        _, step = training_step(make(method), pool)
        before = array_bytes()
        for _ in range(3):
            step(batch)
            assert array_bytes() == before


def during(monkeypatch, traced, loss, parameters, release):
    """Bytes in use before each op is pulled back, from those of the loss to those of the embedding."""
    seen, pull_back = [], engine._pull_back

    def watched(tensor, g):
        seen.append(traced())
        return pull_back(tensor, g)

    monkeypatch.setattr(engine, "_pull_back", watched)
    gradients(loss, parameters, release=release)
    monkeypatch.undo()
    return seen


@pytest.mark.parametrize("method", ["full", "lora"])
def test_activations_are_let_go_as_soon_as_they_are_used(method, make, batch, traced, monkeypatch):
    model = make(method)
    parameters = model.parameters(trainable=True)
    known = FLOAT * lora.report(model).trainable  # gradients take the place of activations
    loss = model.loss(*batch)
    before = traced()
    kept = during(monkeypatch, traced, loss, parameters, release=False)
    released = during(monkeypatch, traced, loss, parameters, release=True)
    assert kept[0] == pytest.approx(released[0], rel=0.01)
    assert min(kept) >= before
    assert released[-1] < 0.1 * before + known
    for part in (0.25, 0.5, 0.75):  # both layers take the same, so it falls evenly
        assert released[int(part * len(released))] < (1.15 - part) * before + known


def test_the_peak_is_lower_for_it(make, batch, traced):
    beyond, model = {}, make()  # what the backward pass takes on top of the activations
    for release in (False, True):
        loss = model.loss(*batch)
        before = traced()
        tracemalloc.reset_peak()
        gradients(loss, model.parameters(), release=release)
        beyond[release] = tracemalloc.get_traced_memory()[1] - before
    assert beyond[False] > 2 * FLOAT * lora.report(model).total  # they are handed out as copies
    assert beyond[True] < beyond[False] / 2
