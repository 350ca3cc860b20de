"""Threads: results are bit-for-bit identical for any number of threads, and all settings are restored."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from minilora import threads
from minilora.autograd import Tensor, gradients, no_grad
from minilora.autograd.tensor import recording
from minilora.nn import Llama, LlamaConfig
from minilora.threads import Threads
from minilora.training import AdamW, Interrupted, pieces
from minilora.training.pieces import cut


def blas():
    """Return the current number of threads of each BLAS library; other packages may have loaded their own."""
    return [library.get_num_threads() for library in threads._blas()]


@pytest.fixture
def many_pieces(monkeypatch):
    """Divide even small batches into pieces, of one or two windows each."""
    monkeypatch.setattr(pieces, "PIECE", 6)


@pytest.mark.parametrize(
    ("size", "count"),
    [((3, 5), 1), ((12, 64), 2), ((7, 300), 4), ((32, 128), 4), ((16, 256), 4), ((100, 256), 8), ((1, 9000), 1)],
)
def test_pieces_are_the_rows_in_their_order(size, count):
    found = cut(*size)
    assert len(found) == count
    assert [i for rows in found for i in range(size[0])[rows]] == list(range(size[0]))
    lengths = [rows.stop - rows.start for rows in found]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("shape", "least", "count"),
    [
        ({}, 384, 1),  # the packaged base: 2.7 million multiplications per token
        ({"hidden_size": 384, "intermediate_size": 1024}, int(1.15e9 // 10_715_136), 4),
        ({"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}, 128, 4),
    ],
    ids=["small", "middle", "large"],
)
def test_large_models_are_given_smaller_pieces(shape, least, count):
    """With smaller pieces, even four windows of 128 tokens keep all cores of a laptop busy."""
    model = Llama(LlamaConfig(**shape), None)
    assert pieces.smallest_piece(model) == max(least, 128)
    assert len(cut(4, 128, pieces.smallest_piece(model))) == count


@pytest.mark.usefixtures("many_pieces")
@pytest.mark.parametrize(("method", "dropout", "accumulate"), [("full", 0.0, 1), ("lora", 0.4, 3)])
def test_any_number_of_threads_gives_the_same_bits(method, dropout, accumulate, make_model, config, run, bits):
    def result(number):
        model = make_model(method, dropout)
        history = run(model, config(batch=7, accumulate=accumulate, eval_windows=80), threads=number)
        return bits(model), history.losses, history.evaluations

    assert len(cut(7, 5)) > 4
    assert result(1) == result(2) == result(4) == result(None)


@pytest.mark.usefixtures("many_pieces")
def test_each_piece_has_its_own_dropout(make_model, ids):
    """Two pieces with the same windows drop different entries, and so do different steps."""
    model = make_model("lora", 0.5)
    optimizer = AdamW([(n, p) for n, p in model.named_parameters() if p.requires_grad])
    model.train(np.random.default_rng(0))
    window = ids[None, :5], ids[None, 1:6]
    found = []
    for seed, batches in [((0, 0), [window]), ((0, 0), [window] * 2), ((0, 1), [window]), ((1, 0), [window])]:
        with Threads(2) as pool:
            found.append(pieces.add_gradients(model, optimizer, batches, pool, seed))
    assert len(set(found)) == 4


def test_what_others_draw_meanwhile_changes_no_run(make_model, config, run, act_in, bits):
    """Text generation in another thread may draw from the model's generator, but the run uses its own."""
    models = [make_model("lora", 0.4) for _ in range(2)]
    act_in(models[1], 2, lambda: models[1]._rng.random(100))
    losses = [run(model, config()).losses for model in models]
    assert losses[0] == losses[1]
    assert bits(models[0]) == bits(models[1])


def test_products_use_one_core_inside_and_what_they_had_before_outside(make_model, config, run, act_in):
    """The setting is restored after an error too, and with several blocks after the last one."""
    with threadpool_limits(2, user_api="blas"):
        before, seen, model = blas(), [], make_model()
        act_in(model, 2, lambda: seen.append(blas()))
        run(model, config())
        assert seen == [[1] * len(before)]
        assert blas() == before == [2] * len(before)
        with pytest.raises(KeyError), Threads(2):
            raise KeyError
        assert blas() == before
        first, second = Threads(1), Threads(2)
        first.__enter__()
        second.__enter__()
        first.__exit__()
        assert blas() == [1] * len(before)
        second.__exit__()
        assert blas() == before


@pytest.mark.parametrize("number", [1, 2, 5])
def test_results_come_in_the_order_of_the_items_and_few_wait_to_be_taken(number):
    begun = []

    def slow_first(i):
        begun.append(i)
        time.sleep(0.02 if i == 0 else 0)
        return i

    with Threads(number) as pool:
        results = pool.map(slow_first, range(20))
        assert next(results) == 0
        assert len(begun) <= number + 1
        assert list(results) == list(range(1, 20))


def test_a_single_item_is_worked_off_where_it_is():
    with Threads(4) as pool:
        assert list(pool.map(lambda _: threading.current_thread(), [0])) == [threading.current_thread()]


def test_work_is_done_by_several_threads_in_the_context_of_the_caller():
    together = threading.Barrier(2, timeout=10)

    def look(_):
        together.wait()  # returns when two threads are waiting
        return threading.current_thread().name, recording(), (Tensor(np.ones(2), requires_grad=True) * 2).requires_grad

    with Threads(2) as pool, no_grad():
        found = list(pool.map(look, range(2)))
    assert len({name for name, *_ in found}) == 2
    assert {(recorded, wants) for _, recorded, wants in found} == {(False, False)}
    assert recording()


@pytest.mark.usefixtures("many_pieces")
def test_ctrl_c_while_threads_work_lets_the_step_end(make_model, config, run, act_in, tmp_path):
    model = make_model()
    main = threading.main_thread().ident
    act_in(
        model, 5, lambda: signal.pthread_kill(main, signal.SIGINT) if hasattr(signal, "pthread_kill") else os.abort()
    )
    with pytest.raises(Interrupted, match="stopped after step 1 of 6"):
        run(model, config(batch=7), tmp_path / "run", threads=2)


def test_the_first_error_is_raised_and_nothing_goes_on_after_it():
    done = []

    def work(i):
        if i < 2:
            raise ValueError(f"item {i}")
        time.sleep(0.05)
        done.append(i)

    with pytest.raises(ValueError, match="item 0"), Threads(2) as pool:
        list(pool.map(work, range(9)))
    before = len(done)
    time.sleep(0.2)
    assert len(done) == before < 7


def test_threads_within_threads_do_not_wait_for_each_other():
    def inner(i):
        with Threads(2) as pool:
            return list(pool.map(lambda j: (i, j), range(3)))

    with Threads(2) as pool:
        assert list(pool.map(inner, range(4))) == [[(i, j) for j in range(3)] for i in range(4)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="requires os.fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    with Threads(2) as pool:
        list(pool.map(abs, range(3)))
    child = os.fork()
    if child == 0:
        with Threads(2) as pool:
            os._exit(int(list(pool.map(abs, [-1, -2])) != [1, 2]))
    deadline = time.monotonic() + 10
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    assert ended[1] == 0


def test_an_invalid_number_of_threads_is_refused():
    for number in (0, 1.5, "2"):
        with pytest.raises(ValueError, match=f"expected `threads` to be a positive integer, got {number!r}"):
            Threads(number)


def test_releasing_frees_the_graph_as_backward_does():
    x = Tensor(np.array([2.0, -3.0]), requires_grad=True)
    y = (x * x).sum()
    assert gradients(y, [x], release=True)[0].tolist() == [4.0, -6.0]
    with pytest.raises(RuntimeError, match="was freed"):
        gradients(y, [x])
