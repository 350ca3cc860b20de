"""Computations on a device, from a single step to saved folders.

Each accepts a device and an empty folder, and returns its results. `test_standin_runs.py` compares them with the CPU
bit for bit, on the stand-in; `test_card.py` compares them within a tolerance, on a GPU.
"""

import math

import numpy as np

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.autograd import Tensor, gradients, no_grad
from minilora.backend import to_device, to_host
from minilora.files import read_tensors, write_tensors
from minilora.generation import Sampler, generate
from minilora.lora.facts import effective_rank, module_facts
from minilora.lora.spectrum import singular_values
from minilora.nn import Llama
from minilora.training import AdamW, TrainingConfig, train
from tests.unit_scale import unit_scale_llama

SHAPE = dict(vocab_size=17, hidden_size=16, intermediate_size=20, num_hidden_layers=2, max_position_embeddings=16)
SHAPE |= dict(num_attention_heads=4, num_key_value_heads=2)
IDS = np.cumsum(np.random.default_rng(2).integers(0, 3, 400)) % SHAPE["vocab_size"]
BATCH, TARGETS = IDS[:45].reshape(3, 15), IDS[1:46].reshape(3, 15)
RUN = TrainingConfig(
    iters=6, batch=3, context=8, lr=0.01, warmup=2, accumulate=2, eval_every=2, eval_windows=4, checkpoint_every=2
)
COMPUTATIONS = {}


def computation(function):
    COMPUTATIONS[function.__name__] = function
    return function


def llama(device, *adapters, dropout=0.0, **shape):
    """A unit-scale model on the device, with active adapters of ranks 2, 3, … and nonzero B."""
    model = unit_scale_llama(0, **SHAPE, **shape).to(device)
    for i, name in enumerate(adapters):
        targets = ["q_proj", "v_proj", "down_proj", "lm_head"][i:]
        config = lora.LoraConfig(r=2 + i, lora_dropout=dropout, target_modules=targets, init_lora_weights=False)
        lora.inject(model, config, name, rng=np.random.default_rng(i))
    if adapters:
        lora.set_active(model, {name: 1 - 0.25 * i for i, name in enumerate(adapters)})
    return model


def step(model):
    """A complete training step: the loss, its gradients, clipping, and the optimizer's update."""
    model.train(np.random.default_rng(3))
    optimizer = AdamW([(n, p) for n, p in model.named_parameters() if p.requires_grad], weight_decay=0.1)
    loss = model.loss(BATCH, TARGETS)
    optimizer.add(gradients(loss, optimizer.parameters, release=True))
    gradient = optimizer.grad.copy()
    length = optimizer.clip(1e-3)
    optimizer.step(0.01)
    return loss.item(), gradient, length, optimizer.m, optimizer.v, model.state_dict()


@computation
def a_step_of_everything(device, folder):
    return step(llama(device)), step(llama(device, tie_word_embeddings=False))


@computation
def a_step_of_adapters(device, folder):
    with_dropout = step(llama(device, "a", dropout=0.4)), step(llama(device, "a", "b", "c", dropout=0.4))
    return step(llama(device, "a")), with_dropout


@computation
def a_step_by_backward(device, folder):
    model = llama(device, "a", "b")
    model.loss(BATCH.tolist(), TARGETS.tolist()).backward()
    model.loss(BATCH[:1], TARGETS[:1]).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def trained(model, path, config=RUN, **options):
    history = train(model, IDS[:300], IDS[300:], config, checkpoint_path=path, quiet=True, **options)
    return model.state_dict(), history.losses, history.evaluations, read_tensors(path)


@computation
def a_run_with_dropout_on_two_threads(device, folder):
    return trained(llama(device, "a", "b", dropout=0.3), folder / "checkpoint", threads=2)


class Crash(Exception):
    pass


def crashed(model, path, losses):
    """Start a run that crashes while it computes its training loss number `losses`, counted from 1."""
    compute, begun = model.loss, []

    def loss(ids, targets):
        begun.extend([1] if model.rng is not None else [])
        if len(begun) == losses:
            raise Crash
        return compute(ids, targets)

    model.loss = loss
    try:
        trained(model, path)
    except Crash:
        return
    raise AssertionError("the run did not crash")


@computation
def a_resumed_run(device, folder):
    crashed(llama(device, "a", dropout=0.3), folder / "checkpoint", losses=10)
    return trained(llama(device, "a", dropout=0.3), folder / "checkpoint", resume=True)


@computation
def a_run_resumed_on_the_cpu(device, folder):
    crashed(llama(device), folder / "checkpoint", losses=7)
    return trained(llama("cpu"), folder / "checkpoint", resume=True)


@computation
def rows_with_adapters_of_their_own(device, folder):
    model = llama(device, "a", "b", "c")
    logits = model(BATCH, adapters=["a", None, {"b": 0.5, "c": 0.5}])
    trainable = model.parameters(trainable=True)
    cotangent = np.random.default_rng(4).standard_normal(logits.shape, dtype=np.float32)
    there = to_device(cotangent, device)
    return logits.data, gradients(logits, trainable, there), gradients(logits, trainable, cotangent)


@computation
def texts(device, folder):
    """Generation past the end of the context: greedy, and sampled with different adapters per row."""
    model, prompts = llama(device, "a", "b"), [IDS[:5], IDS[:3]]
    rows = [{"a": 1.0}, {"a": 0.5, "b": 0.5}]
    found = [generate(model, prompts, 20, Sampler(temperature=0))]
    for sampler in (Sampler(), Sampler(top_k=5), Sampler(top_p=0.7)):
        found.append(generate(model, prompts, 20, sampler, adapters=rows))
    return found


@computation
def merging(device, folder):
    model = llama(device, "a", "b")
    difference = lora.merge_difference(model, BATCH)
    lora.merge(model)
    merged = model(BATCH).data
    lora.unmerge(model)
    unmerged, text = model.state_dict(), str(lora.report(model))
    lora.merge_and_unload(model)
    return merged, unmerged, text, model.state_dict(), difference < 1e-4


@computation
def mixtures(device, folder):
    found = []
    for how in ("cat", "linear", "svd"):
        model = llama(device, "a")
        config = lora.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
        lora.inject(model, config, "z", rng=np.random.default_rng(9))
        made = lora.mix(model, {"a": 0.7, "z": -0.3}, how=how)
        found += [model(BATCH).data, made.rank, made.error]
    return found


@computation
def folders(device, folder):
    """A model and an adapter: saved, loaded on the device, and saved again."""
    llama(device).save_pretrained(folder / "model", dtype="float16")
    model = Llama.from_pretrained(folder / "model", device)
    model.save_pretrained(folder / "again")
    lora.save_adapter(llama(device, "a"), folder / "adapter", "a")
    lora.load_adapter(model, folder / "adapter", "a")
    lora.save_adapter(model, folder / "adapter-again", "a", dtype="float16")
    _with_a_copy_of_the_head(folder / "adapter", model.lm_head.weight.data)
    lora.load_adapter(model, folder / "adapter", "copied")
    written = [read_tensors(file) for file in sorted(folder.glob("*/*.safetensors"))]
    assert len(written) == 4
    return model.state_dict(), written, model(BATCH).data


def _with_a_copy_of_the_head(adapter, weight):
    """Add the frozen weight of an adapted head, as PEFT does; loading compares it with the model's."""
    file = adapter / "adapter_model.safetensors"
    write_tensors(file, {**read_tensors(file), "base_model.model.lm_head.base_layer.weight": to_host(weight)})


@computation
def facts(device, folder):
    model = llama(device, "a")
    lora.save_adapter(model, folder, "a")
    config, tensors = lora.read_adapter(folder)
    weights = {path: module.weight.data for path, module in hosts(model).items()}
    found = module_facts(config, tensors, weights)
    assert all(math.isfinite(module.relative) for module in found)
    ranks = [effective_rank(singular_values(m.lora_A["a"].data, m.lora_B["a"].data)) for m in hosts(model).values()]
    return ranks, [[module.norm, module.relative, module.effective_rank] for module in found]


@computation
def states(device, folder):
    """Parameters loaded from another device, converted to another dtype, and moved back to the CPU."""
    model, other = llama(device), unit_scale_llama(5, **SHAPE)
    model.load_state_dict(other.state_dict())
    loaded = model(BATCH).data
    other.load_state_dict(llama(device).state_dict())
    model.astype(np.float64)
    with no_grad():
        double = model(BATCH).data
    return loaded, other.state_dict(), double, model.to("cpu").state_dict(), str(Tensor(double[0, 0, 0]))
