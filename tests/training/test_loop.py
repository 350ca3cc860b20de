"""The training loop: textbook updates of the trainable parameters only, and a decreasing loss."""

import numpy as np
import pytest

from minilora import lora
from minilora.autograd import gradients
from minilora.training import TrainingConfig, pieces, train
from minilora.training.schedule import learning_rate
from tests.training.textbook import Textbook

EXACT = 1e-9  # relative, in float64: sums are in a different order, and are then divided by √v̂


def textbook_run(model, ids, c):
    """Train by definition: windows, mean gradient, clipping and AdamW, one parameter at a time. Return the losses."""
    rng, losses = np.random.default_rng(c.seed), []
    parameters = model.parameters(trainable=True)
    books = [Textbook(p.data, c.weight_decay * (p.ndim >= 2), (c.beta1, c.beta2), 1e-8) for p in parameters]
    for t in range(c.iters):
        total, grads = 0.0, [np.zeros_like(p.data) for p in parameters]
        for _ in range(c.accumulate):
            windows = np.stack([ids[i : i + c.context + 1] for i in rng.integers(0, len(ids) - c.context, c.batch)])
            loss = model.loss(windows[:, :-1], windows[:, 1:])
            total += loss.item() / c.accumulate
            for mean, g in zip(grads, gradients(loss, parameters), strict=True):
                mean += g / c.accumulate
        length = np.sqrt(sum((g**2).sum() for g in grads))
        rate = learning_rate(t, c.iters, lr=c.lr, min_lr=c.min_lr, warmup=c.warmup)
        for p, book, g in zip(parameters, books, grads, strict=True):
            book.step(g * min(1.0, c.grad_clip / length), rate)
            p.data = book.theta
        losses.append(total)
    return losses


@pytest.mark.parametrize(("method", "accumulate"), [("full", 1), ("lora", 3)])
def test_a_run_is_the_textbook_run(method, accumulate, make_model, ids, config, run, monkeypatch):
    """Each batch of three windows is computed in two pieces, of one and two windows."""
    monkeypatch.setattr(pieces, "PIECE", 6)
    assert len(pieces.cut(3, 5)) == 2
    c = config(accumulate=accumulate, weight_decay=0.3, grad_clip=0.5)
    model, expected = make_model(method), make_model(method)
    model.astype(np.float64)
    expected.astype(np.float64)
    losses = textbook_run(expected, ids[:300], c)
    assert run(model, c).losses == pytest.approx(losses, rel=EXACT)
    for name, array in expected.state_dict().items():
        found = model.state_dict()[name]
        assert np.linalg.norm(found - array) < EXACT * np.linalg.norm(array), name


def test_only_the_active_adapter_trains(make_model, config, run):
    model = make_model("lora")
    second = lora.LoraConfig(r=1, target_modules=["q_proj"], init_lora_weights=False)
    lora.inject(model, second, adapter="second", rng=np.random.default_rng(5))
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    run(model, config())
    changed = {name for name, p in model.named_parameters() if p.data.tobytes() != before[name].tobytes()}
    assert changed == {name for name in before if name.endswith(".second")}
    assert len(changed) == 2


def test_full_training_changes_every_parameter_and_stays_in_float32(make_model, config, run):
    model = make_model()
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    run(model, config())
    for name, p in model.named_parameters():
        assert p.dtype == np.float32
        assert (p.data != before[name]).any(), name
    assert model.rng is None  # the trained model is in eval mode


def test_another_seed_gives_another_run(make_model, config, run, bits):
    models = [make_model("lora", dropout=0.3) for _ in range(2)]
    histories = [run(model, config(seed=seed)) for model, seed in zip(models, (4, 5), strict=True)]
    assert bits(models[0]) != bits(models[1])
    assert histories[0].evaluations[0] == histories[1].evaluations[0]
    assert histories[0].losses != histories[1].losses


@pytest.mark.parametrize(("method", "below"), [("full", 0.1), ("lora", 0.5)])
def test_it_learns_a_text_by_heart(method, below, make_model):
    """From ln 29 = 3.4 nats for a uniform guess to nearly 0: in this text, each character follows from the context."""
    shape = {"vocab_size": 29, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 16}
    text = np.frombuffer(b"the quick brown fox jumps over the lazy dog; " * 8, dtype=np.uint8).astype(np.int64)
    ids = np.unique(text, return_inverse=True)[1]
    model = make_model("full", **shape)
    if method == "lora":
        adapter = lora.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
        lora.inject(model, adapter, rng=np.random.default_rng(1))
    c = TrainingConfig(iters=200, batch=8, context=16, lr=2e-2, min_lr=2e-3, warmup=10, eval_every=200, eval_windows=8)
    history = train(model, ids, ids, c, quiet=True)
    assert history.losses[0] > 2.5
    assert np.mean(history.losses[-10:]) < below
    assert history.val_loss < below
    assert [step for step, _ in history.evaluations] == [0, 200]


def test_evaluations_are_where_they_should_be(make_model, config, run):
    history = run(make_model("lora"), config(iters=7, eval_every=3))
    assert [step for step, _ in history.evaluations] == [0, 3, 6, 7]
    assert len(history.losses) == 7
    assert history.val_loss == history.evaluations[-1][1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": 9}, "a context of 9 tokens is longer than the model's maximum of 8"),
        ({"train_ids": np.zeros(5, dtype=np.int64)}, "has 5 tokens, but one window needs 6"),
        ({"val_ids": np.zeros(5, dtype=np.int64)}, "has 5 tokens, but one window needs 6"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(changes, words, make_model, config, run, tmp_path):
    changes = dict(changes)
    c = config(context=changes.pop("context", 5))
    with pytest.raises(ValueError, match=words):
        run(make_model(), c, tmp_path / "out" / "checkpoint.safetensors", **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("iters", "batch", "context", "accumulate", "eval_every", "eval_windows", "lr")),
        *(("checkpoint_every", value) for value in (0, 2.5)),
        *((name, -1) for name in ("min_lr", "warmup", "weight_decay", "grad_clip", "seed", "beta1", "lr")),
        *(("beta2", value) for value in (1, float("nan"))),
        *(("lr", value) for value in (float("nan"), float("inf"))),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(name, value, config):
    with pytest.raises(ValueError, match=name):
        config(**{name: value})


def test_settings_replace_those_of_the_config(make_model, ids):
    config = TrainingConfig(iters=3, batch=2, context=8, eval_windows=2, warmup=1)
    long, short, plain = make_model(), make_model(), make_model()
    train(long, ids, ids, config, quiet=True)
    train(short, ids, ids, TrainingConfig(iters=9, eval_windows=2, warmup=1), iters=3, batch=2, context=8, quiet=True)
    train(plain, ids, ids, iters=3, batch=2, context=8, eval_windows=2, warmup=1, quiet=True)
    for name, array in long.state_dict().items():
        assert array.tobytes() == short.state_dict()[name].tobytes() == plain.state_dict()[name].tobytes()


def test_an_unknown_setting_is_refused_with_the_known_ones(make_model, ids):
    with pytest.raises(TypeError, match="TrainingConfig has no setting steps; valid settings: iters, batch, context"):
        train(make_model(), ids, ids, steps=3)


@pytest.mark.parametrize(
    "wrong", ["my.txt", [1, 2, 3] * 100, np.ones(500), np.ones((50, 50), int)], ids=lambda x: type(x).__name__
)
def test_ids_that_are_no_ids_are_refused(wrong, make_model, ids):
    message = r"expected token ids, an integer array of shape \(n,\), got (str|list|ndarray); load_ids reads a text"
    for texts in ((wrong, ids), (ids, wrong)):
        with pytest.raises(ValueError, match=message):
            train(make_model(), *texts, iters=1, context=8)


def test_numpy_scalars_and_paths_as_text_are_settings_like_others(make_model, ids, tmp_path):
    settings = {"iters": 3, "batch": 2, "context": 8, "eval_windows": 2, "lr": 1e-3, "seed": 1}
    as_numpy = {name: np.float64(v) if name == "lr" else np.int64(v) for name, v in settings.items()}
    plain, scalars = make_model(), make_model()
    train(plain, ids, ids, **settings, quiet=True)
    train(scalars, ids, ids, **as_numpy, quiet=True, checkpoint_path=str(tmp_path / "c.safetensors"))
    assert all(a.tobytes() == scalars.state_dict()[name].tobytes() for name, a in plain.state_dict().items())
    assert (tmp_path / "c.safetensors").is_file()
    assert TrainingConfig(**as_numpy) == TrainingConfig(**settings)
    assert type(TrainingConfig(lr=np.float32(1e-3)).lr) is float
