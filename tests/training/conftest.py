"""Fixtures of the training tests: a tiny model of unit scale, a short text and a short run."""

import dataclasses
import itertools
import os
import signal

import numpy as np
import pytest

from minilora import lora
from minilora.nn import Llama, LlamaConfig
from minilora.training import TrainingConfig, train

SHAPE = {
    "vocab_size": 13,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8,
    "initializer_range": 0.5,
}
CONFIG = TrainingConfig(
    iters=6, batch=3, context=5, lr=0.05, min_lr=0.01, warmup=2, eval_every=2, eval_windows=4, checkpoint_every=3
)


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """Disable fsync, which is slow. The tests stop processes, not the machine, so written data is not lost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def ctrl_c_can_be_pressed():
    """Handle SIGINT as in a terminal. Processes that a script starts in the background ignore it by default."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def make_model():
    """make_model(method, dropout, **shape): a model with fixed weights; for "lora", A and B are of unit scale."""

    def make(method="full", dropout=0.0, **shape):
        model = Llama(LlamaConfig(**{**SHAPE, **shape}), np.random.default_rng(0))
        if method == "lora":
            adapter = lora.LoraConfig(
                r=2, lora_alpha=4, lora_dropout=dropout, target_modules="all-linear", init_lora_weights=False
            )
            lora.inject(model, adapter, rng=np.random.default_rng(1))
        return model

    return make


@pytest.fixture(scope="session")
def ids():
    """400 token ids with a learnable pattern: each is the previous one plus 0, 1 or 2, modulo the vocabulary size."""
    return np.cumsum(np.random.default_rng(2).integers(0, 3, 400)) % SHAPE["vocab_size"]


@pytest.fixture(scope="session")
def config():
    """config(**changes): the settings of a run of six steps."""
    return lambda **changes: dataclasses.replace(CONFIG, **changes)


@pytest.fixture(scope="session")
def run(ids):
    """run(model, config, path, **options): call `train`, quietly, on the first 300 ids, with the other 100 held out."""

    def go(model, config, path=None, **options):
        options = {"train_ids": ids[:300], "val_ids": ids[300:], "quiet": True, **options}
        return train(model, options.pop("train_ids"), options.pop("val_ids"), config, checkpoint_path=path, **options)

    return go


@pytest.fixture(scope="session")
def act_in():
    """act_in(model, call, act): call `act()` just before the training loss is computed for the `call`th time."""

    def arrange(model, call, act):
        loss, calls = model.loss, itertools.count(1)

        def watched(inputs, targets):
            if model.rng is not None and next(calls) == call:  # the model has a generator only in training mode
                act()
            return loss(inputs, targets)

        model.loss = watched

    return arrange


@pytest.fixture(scope="session")
def bits():
    """bits(model): the bytes of every parameter, by name."""
    return lambda model: {name: array.tobytes() for name, array in model.state_dict().items()}
