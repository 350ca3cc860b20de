"""What a run does: the textbook's updates, to trainable parameters alone, with a loss that falls."""

import numpy as np
import pytest

from minilora import lora
from minilora.autograd import gradients
from minilora.training import TrainingConfig, train
from minilora.training.schedule import warmup_cosine

EXACT = 1e-9  # relative, in float64: sums in another order, then divided by √v̂


def textbook_run(model, ids, c):
    """The same run from its definition: windows, mean gradient, clipping and AdamW, one parameter at a time."""
    rng = np.random.default_rng(c.seed)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    m, v, losses = {n: 0.0 for n, _ in named}, {n: 0.0 for n, _ in named}, []
    for t in range(1, c.iters + 1):
        total, grads = 0.0, [np.zeros_like(p.data) for _, p in named]
        for _ in range(c.accumulate):
            windows = np.stack([ids[i : i + c.context + 1] for i in rng.integers(0, len(ids) - c.context, c.batch)])
            loss = model.loss(windows[:, :-1], windows[:, 1:])
            total += loss.item() / c.accumulate
            for mean, g in zip(grads, gradients(loss, [p for _, p in named]), strict=True):
                mean += g / c.accumulate
        length = np.sqrt(sum((g**2).sum() for g in grads))
        lr = warmup_cosine(t - 1, c.iters, c.warmup, c.lr, c.min_lr)
        for (name, p), g in zip(named, grads, strict=True):
            g = g * min(1.0, c.grad_clip / length)
            m[name] = c.beta1 * m[name] + (1 - c.beta1) * g
            v[name] = c.beta2 * v[name] + (1 - c.beta2) * g**2
            step = m[name] / (1 - c.beta1**t) / (np.sqrt(v[name] / (1 - c.beta2**t)) + 1e-8)
            decay = c.weight_decay * p.data if p.ndim >= 2 else 0.0
            p.data = p.data - lr * (step + decay)
        losses.append(total)
    return losses


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_is_the_textbook_run(method, accumulate, make_model, ids, config, run):
    c = config(accumulate=accumulate, weight_decay=0.3, grad_clip=0.5)
    model, expected = make_model(method), make_model(method)
    model.astype(np.float64)
    expected.astype(np.float64)
    losses = textbook_run(expected, ids[:300], c)
    assert run(model, c).losses == pytest.approx(losses, rel=EXACT)
    for name, array in expected.state_dict().items():
        assert relative(model.state_dict()[name], array) < EXACT, name


def test_accumulating_four_batches_is_one_batch_four_times_as_big(make_model, config, run):
    models = [make_model(), make_model()]
    for model in models:
        model.astype(np.float64)
    big = run(models[0], config(batch=8, accumulate=1))
    small = run(models[1], config(batch=2, accumulate=4))
    assert small.losses == pytest.approx(big.losses, rel=EXACT)
    for name, array in models[0].state_dict().items():
        assert relative(models[1].state_dict()[name], array) < EXACT, name


def test_lora_trains_a_and_b_and_leaves_every_bit_of_the_base(make_model, config, run):
    model = make_model("lora", dropout=0.2)
    before = {name: (p, p.data, p.data.copy()) for name, p in model.named_parameters()}
    run(model, config())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {n for n in before if ".lora_" in n}
    for name, p in model.named_parameters():
        tensor, array, values = before[name]
        assert p is tensor
        if ".lora_" in name:
            assert (p.data != values).all(), name
        else:
            assert p.data is array, name
            assert array.tobytes() == values.tobytes(), name
            assert p.grad is None, name


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
    assert model.rng is None  # what comes out is ready to use


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(make_model, config, run, bits):
    models = [make_model("lora", dropout=0.3) for _ in range(3)]
    histories = [run(model, config(seed=seed)) for model, seed in zip(models, (4, 4, 5), strict=True)]
    assert bits(models[0]) == bits(models[1]) != bits(models[2])
    assert histories[0] == histories[1] != histories[2]


@pytest.mark.parametrize(("method", "below"), [("full", 0.1), ("lora", 0.5)])
def test_it_learns_a_text_by_heart(method, below, make_model):
    """From ln 29 = 3.4 nats on the first guess to next to nothing: there is only one way on in this text."""
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


@pytest.mark.parametrize("method", ["full", "lora"])
def test_evaluations_are_where_they_should_be(method, make_model, config, run):
    history = run(make_model(method), config(iters=7, eval_every=3))
    assert [step for step, _ in history.evaluations] == [0, 3, 6, 7]
    assert len(history.losses) == 7
    assert history.val_loss == history.evaluations[-1][1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": 9}, "a context of 9 tokens is more than the model's, which is 8"),
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
        *((name, 0) for name in ("iters", "batch", "context", "accumulate", "eval_every", "eval_windows")),
        *(("checkpoint_every", value) for value in (0, -1, 2.5, "16")),
        *(("lr", value) for value in (0.0, -1.0, float("nan"), float("inf"))),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(name, value, config):
    with pytest.raises(ValueError, match=name):
        config(**{name: value})
