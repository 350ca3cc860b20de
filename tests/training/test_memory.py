"""Memory of a training step: the breakdown is exact, and memory that is no longer needed is freed."""

import threading
import tracemalloc

import numpy as np
import pytest

from minilora import lora
from minilora.autograd import engine, gradients
from minilora.data.batches import sample_batch
from minilora.training import Run, TrainingConfig, step_memory
from minilora.training import memory as memory_module
from minilora.training import pieces as pieces_module
from minilora.training.pieces import cut

FLOAT = 4  # bytes
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def make(make_model):
    """make(method): a model large enough that its arrays need more memory than the Python objects around them."""
    return lambda method="full": make_model(method, **SHAPE)


@pytest.fixture(scope="module")
def batch(ids):
    """Inputs and targets of twelve windows of 64 tokens, which are computed in two pieces."""
    rows = np.stack([ids[start : start + 65] for start in range(0, 324, 27)])
    assert len(cut(12, 64)) == 2
    return rows[:, :-1], rows[:, 1:]


@pytest.fixture(scope="module")
def measured(make, batch):
    """measured[method]: the memory of a step on one thread."""
    return {method: step_memory(make(method), batch, threads=1) for method in ("full", "lora")}


@pytest.fixture
def traced():
    """traced(): the bytes currently in use that were allocated within the test."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_split_is_exact(method, make, measured):
    counts, found = lora.report(make(method)), measured[method]
    assert found.weights == FLOAT * counts.total  # a tied head counts once
    assert found.gradients == FLOAT * counts.trainable
    assert found.optimizer == 3 * FLOAT * counts.trainable  # two moments and a work buffer
    assert found.peak == found.weights + found.gradients + found.optimizer + found.activations


def test_activations_are_what_the_backward_pass_needs_and_nearly_the_same_for_lora(measured, batch):
    """Lower bound: per token and layer the inputs of seven linears, for a piece of half the tokens."""
    floats = 2 * (batch[0].size // 2) * (3 * 64 + 96)
    assert measured["full"].activations > FLOAT * floats
    assert measured["lora"].activations > measured["full"].activations / 2
    assert measured["lora"].peak < measured["full"].peak


def test_a_second_thread_works_on_a_second_piece(make, batch, monkeypatch):
    """Each thread waits until both have recorded the graph of their piece."""
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
    kept = model.lm_head.weight.grad = np.ones_like(model.lm_head.weight.data)
    before, arrays = bits(model), [p.data for p in model.parameters()]
    for rng in (None, np.random.default_rng(5)):
        if rng:
            model.train(rng)
        step_memory(model, batch, threads=1)
        assert model.rng is rng
    assert bits(model) == before
    assert all(p.data is array for p, array in zip(model.parameters(), arrays, strict=True))
    assert model.lm_head.weight.grad is kept


def test_it_measures_under_someone_elses_tracing(make, batch, measured, traced):
    np.ones(10 * measured["full"].activations, dtype=np.int8)  # a peak of the caller's own
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


def test_the_step_is_the_one_of_train(make_model, config, run, ids, bits):
    """With dropout, and with gradient clipping."""
    constant = config(iters=3, lr=0.01, min_lr=0.01, warmup=0)
    trained, stepped = (make_model("lora", dropout=0.5) for _ in range(2))
    history = run(trained, constant)
    rng = np.random.default_rng(constant.seed)
    batches = [sample_batch(ids[:300], constant.batch, constant.context, rng) for _ in range(3)]
    stepping = Run(stepped, None, None, constant, threads=1)
    assert [stepping.step([batch]) for batch in batches] == history.losses
    assert bits(stepped) == bits(trained)


def test_a_step_lets_go_of_its_activations(make, batch, measured, monkeypatch):
    """If the activations were kept until all gradients are computed, the gradients would add to the peak."""
    monkeypatch.setattr(pieces_module, "gradients", lambda *arguments, release: gradients(*arguments))
    kept = step_memory(make(), batch, threads=1)
    assert kept.activations > measured["full"].activations + kept.gradients


def array_bytes():
    """Return the traced bytes of NumPy arrays. They are exact, whereas Python may cache small objects."""
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_after_a_step_only_the_known_arrays_are_left(method, make, batch, traced, without_collector):
    run = Run(make(method), None, None, TrainingConfig(context=64), threads=1)
    run.step([batch])
    before = array_bytes()
    for _ in range(3):
        run.step([batch])
        assert array_bytes() == before
