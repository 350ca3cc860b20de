"""The interface of a run for methods: hooks in each step, and learning rates and weight decay per tensor."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.adapters.hook import Hook
from minilora.autograd import gradients
from minilora.files import read_metadata, read_tensors, write_tensors
from minilora.training import CheckpointError, Run, pieces
from minilora.training.groups import parameter_groups
from tests.training.methods import PruneConfig, RestartConfig

METHODS = {"restart": RestartConfig, "prune": PruneConfig}


class Crash(Exception):
    """Simulates a power failure: the run ends without saving anything more."""


def crash():
    raise Crash


@pytest.fixture(scope="session")
def make_hooked(make_model):
    """make_hooked(config): a model of unit scale with an adapter of the config's method."""

    def make(config):
        model = make_model()
        lora.inject(model, config, rng=np.random.default_rng(1))
        return model

    return make


@pytest.fixture(scope="session")
def make_method(make_hooked):
    """make_method(name): a model with an adapter of this method, bit-for-bit identical on each call."""
    return lambda name: make_hooked(METHODS[name](r=3, target_modules="all-linear", lora_dropout=0.25))


@pytest.fixture
def recorded(monkeypatch):
    """recorded(hook): make `hook` the training hook of LoRA adapters."""
    return lambda hook: monkeypatch.setattr(lora.LoraConfig, "hook", lambda self, model, adapter: hook)


@settings(deadline=None, max_examples=15)
@given(
    method=st.sampled_from(list(METHODS)),
    stops=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    checkpoint_every=st.integers(1, 4),
)
def test_a_resumed_run_ends_with_the_same_bits(
    method, stops, checkpoint_every, make_method, config, run, act_in, bits, tmp_path_factory
):
    """This includes frozen weights that a method changes, and ranks that it prunes."""
    c, path = config(checkpoint_every=checkpoint_every), tmp_path_factory.getbasetemp() / "hooked.safetensors"

    def result(prepare=lambda model: None):
        model = make_method(method)
        prepare(model)
        history = run(model, c, path, resume=path.exists(), threads=1)
        return bits(model), history.losses, history.evaluations, path.read_bytes()

    path.unlink(missing_ok=True)
    whole = result()
    path.unlink()
    for call in stops:
        with contextlib.suppress(Crash):
            result(lambda model, call=call: act_in(model, call, crash))
    assert result() == whole


def test_restarting_changes_the_frozen_weights_and_not_the_function(make_method, ids, config):
    """At a restart, W becomes W + s·BA, B becomes zero, and the optimizer state of A and B is reset."""
    model = make_method("restart")
    before = {path: host.base.weight.data.copy() for path, host in hosts(model).items()}
    training = Run(model, ids[:300], ids[300:], config())
    training.step()
    effective = {}
    step = training.optimizer.step
    training.optimizer.step = lambda lr: (
        step(lr)
        or effective.update(
            {path: host.base.weight.data + host.delta("default") for path, host in hosts(model).items()}
        )
    )
    training.step()
    for path, host in hosts(model).items():
        assert (host.base.weight.data != before[path]).any(), path
        np.testing.assert_array_equal(host.base.weight.data, effective[path])
        assert not host.updates["default"].lora_B.data.any()
    assert not any(array.any() for array in training.optimizer.state.values())


def test_pruning_cuts_one_rank_of_each_layer_for_good(make_method, run, config):
    model = make_method("prune")
    run(model, config())
    for path, host in hosts(model).items():
        columns = host.updates["default"].lora_B.data.any(axis=0)
        assert columns.sum() == 2, path


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_penalty_counts_once_a_step(threads, accumulate, make_model, ids, config, recorded, monkeypatch):
    """This holds for any number of pieces and batches, and the recorded loss excludes the penalty."""
    monkeypatch.setattr(pieces, "PIECE", 5)
    model, plain = (make_model("lora") for _ in range(2))
    p = hosts(model)["model.layers.0.mlp.up_proj"].updates["default"].lora_A
    found = {}

    class Penalised(Hook):
        def penalty(self):
            return (p * p).sum() * 0.5

        def before_update(self, run):
            found["gradient"] = p.grad.copy()

    c = config(accumulate=accumulate, grad_clip=0.0)
    without = Run(plain, ids[:300], None, c, threads=threads)
    without.step()
    recorded(Penalised())
    value = p.data.copy()
    training = Run(model, ids[:300], None, c, threads=threads)
    training.step()
    assert training.history == without.history
    expected = value + hosts(plain)["model.layers.0.mlp.up_proj"].updates["default"].lora_A.grad
    np.testing.assert_allclose(found["gradient"], expected, rtol=1e-5, atol=1e-6)


def test_a_hook_sees_clipped_gradients_before_the_update_and_the_same_ones_after_it(make_model, ids, config, recorded):
    model, seen = make_model("lora"), []
    trained = model.parameters(trainable=True)

    class Watching(Hook):
        def penalty(self):
            seen.append("penalty")

        def before_update(self, run):
            seen.append(("before", run.steps, [p.data.copy() for p in trained], [p.grad.copy() for p in trained]))

        def after_update(self, run):
            seen.append(("after", run.steps, [p.data.copy() for p in trained], [p.grad.copy() for p in trained]))

    recorded(Watching())
    start = [p.data.copy() for p in trained]
    Run(model, ids[:300], None, config(grad_clip=0.01)).step()
    assert seen[0] == "penalty"
    (_, done, data, grads), (_, done_after, data_after, grads_after) = seen[1:]
    assert (done, done_after) == (0, 1)
    assert np.sqrt(sum((g**2).sum() for g in grads)) == pytest.approx(0.01, rel=1e-5)
    for same, other in zip(start + grads, data + grads_after, strict=True):
        np.testing.assert_array_equal(same, other)
    assert any((a != b).any() for a, b in zip(data, data_after, strict=True))


def test_gradients_may_be_changed_before_the_update(make_model, ids, config, recorded, bits):
    """With a hook that zeroes the gradients, the parameters do not change."""
    model = make_model("lora")

    class Zero(Hook):
        def before_update(self, run):
            for p in model.parameters(trainable=True):
                p.grad[...] = 0

    recorded(Zero())
    before = bits(model)
    Run(model, ids[:300], None, config(weight_decay=0.0)).step()
    assert bits(model) == before


def test_only_active_adapters_have_hooks(make_method, ids, config):
    model = make_method("prune")
    assert list(Run(model, ids[:300], None, config()).hooks) == ["default"]
    lora.inject(model, lora.LoraConfig(r=1), "plain", rng=np.random.default_rng(0))
    assert Run(model, ids[:300], None, config()).hooks == {}


def test_a_checkpoint_without_the_state_of_a_hook_is_refused(make_method, run, config, bits, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    run(make_method("prune"), config(), path)
    tensors = {name: array for name, array in read_tensors(path).items() if not name.endswith("q_proj.kept")}
    write_tensors(path, tensors, read_metadata(path))
    model = make_method("prune")
    before = bits(model)
    kept = r"hook\.default\.model\.layers\.0\.self_attn\.q_proj\.kept"
    with pytest.raises(CheckpointError, match=f"lacks the tensor `{kept}` of"):
        run(model, config(), path, resume=True)
    assert bits(model) == before


def test_an_update_says_which_of_its_tensors_decay_and_how_fast_each_learns(make_model, monkeypatch):
    """IA³'s vector, saved as a one-column matrix, must not decay away from 1, and LoRA+ trains B faster."""
    update_type = lora.LoraConfig.update_type
    monkeypatch.setattr(update_type, "decays", lambda self, name: name == "lora_B")
    monkeypatch.setattr(update_type, "lr_scale", lambda self, name: 16.0 if name == "lora_B" else 1.0)
    groups = parameter_groups(make_model("lora"), 0.3)
    assert [(group.weight_decay, group.lr_scale) for group in groups] == [(0.3, 16.0), (0.0, 1.0)]
    for group, name in zip(groups, ("lora_B", "lora_A"), strict=True):
        assert {parameter.split(".")[-2] for parameter, _ in group.parameters} == {name}


def test_by_default_matrices_decay_and_vectors_do_not(make_model):
    decayed, others = parameter_groups(make_model(), 0.3)
    assert (decayed.weight_decay, others.weight_decay) == (0.3, 0.0)
    assert {p.ndim for _, p in decayed.parameters} == {2}
    assert {p.ndim for _, p in others.parameters} == {1}
    names = [name for name, _ in decayed.parameters + others.parameters]
    assert sorted(names) == sorted(make_model().state_dict())


def test_a_rate_of_its_own_is_a_multiple_of_the_runs(make_model, ids, config, monkeypatch):
    """In one SGD step with lr_scale 16 for B, B moves by 16 · lr · gradient."""
    monkeypatch.setattr(lora.LoraConfig.update_type, "lr_scale", lambda self, name: 16.0 if name == "lora_B" else 1.0)
    model = make_model("lora")
    model.astype(np.float64)
    trained = dict(model.named_parameters())
    start = {name: p.data.copy() for name, p in trained.items()}
    training = Run(model, ids[:300], None, config(optimizer="sgd", grad_clip=0.0, weight_decay=0.0, warmup=0))
    window = ids[None, :5], ids[None, 1:6]
    expected = gradients(model.loss(*window), model.parameters(trainable=True))
    training.step([window])
    names = [name for name, p in trained.items() if p.requires_grad]
    for name, g in zip(names, expected, strict=True):
        rate = 0.05 * (16 if "lora_B" in name else 1)
        np.testing.assert_allclose(trained[name].data, start[name] - rate * g, rtol=1e-10, err_msg=name)
