"""Training, generation, LoRA and saved folders on the stand-in: bit-for-bit as on the CPU, without host fallbacks."""

import threading

import numpy as np
import pytest

from minilora import lora
from minilora.backend import to_device
from minilora.generation import generate
from minilora.nn import Llama
from minilora.training import AdamW, TrainingConfig, evaluate, train
from tests.gpu.computations import BATCH, COMPUTATIONS, IDS, TARGETS, llama
from tests.gpu.conftest import bits
from tests.gpu.standin import DeviceArray

pytestmark = pytest.mark.usefixtures("cupy")


@pytest.mark.parametrize("compute", COMPUTATIONS.values(), ids=COMPUTATIONS)
def test_the_same_bits_as_on_numpy(compute, tmp_path):
    expected, found = compute("cpu", tmp_path / "cpu"), compute("cuda", tmp_path / "cuda")
    assert bits(found) == bits(expected)


def test_everything_of_a_model_lies_on_the_card():
    model = llama("cpu", "a", "b")
    model.loss(BATCH, TARGETS).backward()
    trainable = [p.requires_grad for p in model.parameters()]
    assert model.device == "cpu"
    assert model.to("cuda") is model
    assert model.device == "cuda"
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert all(p.grad is None for p in model.parameters())
    assert all(isinstance(p.data, DeviceArray) for p in model.parameters())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    lora.inject(model, lora.LoraConfig(), "late", rng=np.random.default_rng(0))
    optimizer = AdamW([(n, p) for n, p in model.named_parameters() if p.requires_grad])
    cache = model.new_cache(2)
    buffers = [optimizer.data, optimizer.grad, optimizer.m, optimizer.v, cache.layers[0].keys, cache.layers[1].values]
    assert all(isinstance(x, DeviceArray) for x in [*buffers, *(p.data for p in model.parameters())])
    assert not any(isinstance(p.data, DeviceArray) for p in model.to("cpu").parameters())


def test_ids_may_lie_on_the_host_or_on_the_card():
    model = llama("cuda")
    expected = bits(model(BATCH).data)
    assert bits(model(to_device(BATCH, "cuda")).data) == expected
    assert bits(model(BATCH.tolist()).data) == expected
    with pytest.raises(ValueError, match="expected ids from 0 to 16, got ids from 0 to 17"):
        model(np.array([[0, 17]]))


def test_what_may_not_move():
    model = llama("cpu", "a")
    optimizer = AdamW([(n, p) for n, p in model.named_parameters() if p.requires_grad])
    lora.merge(model)
    with pytest.raises(ValueError, match="adapters are merged"):
        model.to("cuda")
    assert model.device == "cpu"
    lora.unmerge(model)
    model.to("cuda")
    with pytest.raises(RuntimeError, match="create a new optimizer"):
        optimizer.step(0.1)


def test_only_the_logits_of_each_new_token_are_copied_to_the_host(cupy, monkeypatch):
    home, model = [], llama("cuda", "a")
    asnumpy = cupy.asnumpy
    monkeypatch.setattr(cupy, "asnumpy", lambda array: (home.append(array.shape), asnumpy(array))[1])
    generate(model, [IDS[:4], IDS[:4]], 5)
    assert home == [(2, 17)] * 5


def test_a_card_gets_each_batch_in_one_piece_from_one_thread():
    """On the host, 900 tokens are divided into two pieces."""
    config = TrainingConfig(iters=1, batch=60, context=15, accumulate=2, eval_windows=80)
    sizes, threads = {}, set()
    for device in ("cpu", "cuda"):
        model = llama(device)
        compute, seen = model.loss, sizes.setdefault(device, [])

        def loss(ids, targets, model=model, compute=compute, seen=seen):
            seen.extend([len(ids)] if model.rng is not None else [])
            threads.update({threading.current_thread()} if model.device == "cuda" else {})
            return compute(ids, targets)

        model.loss = loss
        train(model, IDS, IDS, config, quiet=True, threads=2)
        evaluate(model, IDS, 15, 80, threads=2)
    assert sizes == {"cpu": [30] * 4, "cuda": [60] * 2}
    assert threads == {threading.current_thread()}


def test_a_folder_opens_on_the_requested_device(tmp_path):
    llama("cuda").save_pretrained(tmp_path)
    assert Llama.from_pretrained(tmp_path).device == "cpu"
    assert Llama.from_pretrained(tmp_path, device="cuda").device == "cuda"
