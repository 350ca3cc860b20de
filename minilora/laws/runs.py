"""Laws of files, the tokenizer and training runs. Laws of generation are in `writing.py`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minilora import lora
from minilora.autograd import Tensor
from minilora.backend import Array
from minilora.data import ByteTokenizer
from minilora.generation import Sampler, generate
from minilora.laws.kit.case import Case
from minilora.laws.kit.law import EXACT, law
from minilora.laws.model import draw_model, logits
from minilora.nn import Llama, LlamaConfig
from minilora.training import AdamW, History, ParameterGroup, TrainingConfig, train

TINY = LlamaConfig(
    vocab_size=11,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=8,
    initializer_range=0.5,
)
"""A model of 480 parameters."""

UTF8 = "RFC 3629, section 3"
BLOCKS = (0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000), (0x1F300, 0x1FB00)
"""All Unicode characters by the length of their UTF-8, and emoji as a separate range, so that they are drawn often."""


# --- files ------------------------------------------------------------------------------------------------------


@law("runs", "load(save(A, B)) = A, B", "file format: tensors are stored unchanged", bound=EXACT)
def adapter_files_keep_every_bit(case: Case) -> None:
    """An adapter that is saved and loaded onto another copy of the base has identical bits and identical logits."""
    targets = case.choice("targets", [["q_proj"], ["o_proj", "up_proj"], "all-linear"])
    config = lora.LoraConfig(case.size("r", 1, 4), case.number("alpha", positive=True), target_modules=targets)
    start = int(case.rng.integers(2**32))
    model, other = (fresh_model(case, start) for _ in range(2))
    lora.inject(model, config, "drawn", rng=case.rng)
    adapter = {name: p for name, p in model.named_parameters() if "lora_" in name}
    dtype = draw_stored(case, adapter)
    with tempfile.TemporaryDirectory() as folder:
        lora.save_adapter(model, folder, "drawn", dtype=dtype)
        lora.load_adapter(other, folder, "drawn")
    same_bits(case, other.state_dict(), model.state_dict())
    ids = case.rng.integers(0, 11, (1, 4))
    case.same("logits", logits(other, ids), logits(model, ids))


@law("runs", "load(save(model)) = model", "file format: tensors are stored unchanged", bound=EXACT)
def model_folders_keep_every_bit(case: Case) -> None:
    """A model that is saved and loaded has identical bits, an equal configuration and identical logits."""
    model = draw_model(case)
    dtype = draw_stored(case, dict(model.named_parameters()))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, dtype)
        opened = Llama.from_pretrained(folder)
    opened.astype(case.dtype)
    same_bits(case, opened.state_dict(), model.state_dict())
    case.true(f"the config should be {model.config}, got {opened.config}", opened.config == model.config)
    ids = case.rng.integers(0, model.config.vocab_size, (1, 4))
    case.same("logits", logits(opened, ids), logits(model, ids))


def draw_stored(case: Case, parameters: dict[str, Tensor]) -> str:
    """Draw a dtype for the file, and set the parameters to random values that this dtype represents exactly."""
    dtype = case.choice("dtype of the file", ["float32", "float16"])
    for p in parameters.values():
        p.data[...] = case.rng.standard_normal(p.shape).astype(dtype)
    return dtype


def same_bits(case: Case, got: dict[str, Array], want: dict[str, Array]) -> None:
    case.true(f"the parameters should be {', '.join(want)}, got {', '.join(got)}", got.keys() == want.keys())
    for name, array in want.items():
        case.same(name, got[name], array)


# --- the tokenizer ----------------------------------------------------------------------------------------------


@law("runs", "decode(encode(text)) = text", UTF8, bound=EXACT)
def the_tokenizer_loses_nothing(case: Case) -> None:
    """The ids of a text are its UTF-8 bytes, and decoding them restores the text."""
    text, tokenizer = draw_text(case), ByteTokenizer()
    ids = tokenizer.encode(text)
    case.same("ids", ids, np.array([byte for character in text for byte in utf8(ord(character))]))
    back = tokenizer.decode(ids, errors="strict")
    case.true(f"the decoded text should be {text!r}, got {back!r}", back == text)


@law("runs", "decode(b₁) + … + decode(bₙ) = decode(b₁ … bₙ)", UTF8, bound=EXACT)
def wherever_its_bytes_are_cut_a_text_is_the_same(case: Case) -> None:
    """Bytes decoded piece by piece, as in generation, give the same text as at once, even if they are invalid UTF-8."""
    tokenizer, text = ByteTokenizer(), draw_text(case)
    data = bytearray(text.encode())
    if case.choice("corrupted", [False, True]):
        data[case.rng.integers(len(data))] = case.rng.integers(256)
    cuts = sorted(case.note("cuts", case.rng.integers(0, len(data) + 1, case.size("number of cuts", 0, 6))))
    decoder = tokenizer.stream()
    pieces = [decoder.decode(bytes(data[a:b])) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    pieces.append(decoder.decode(b"", final=True))
    whole = tokenizer.decode(np.frombuffer(data, dtype=np.uint8))
    case.true(f"the joined pieces should be {whole!r}, got {''.join(pieces)!r}", "".join(pieces) == whole)


def draw_text(case: Case) -> str:
    """Draw a text of any characters: ASCII, other scripts, emoji, control characters and unassigned code points."""
    blocks = case.rng.integers(0, len(BLOCKS), case.size("characters", 1, 8))
    text = "".join(chr(case.rng.integers(*BLOCKS[block])) for block in blocks)
    case.note("text", ascii(text))
    return text


def utf8(code: int) -> list[int]:
    """The UTF-8 bytes of one code point: six bits per byte, from the last back; the first also gives the length."""
    if code < 0x80:
        return [code]
    length = 2 if code < 0x800 else 3 if code < 0x10000 else 4
    first = (0xF00 >> length & 0xFF) | code >> 6 * (length - 1)
    return [first, *(0x80 | code >> 6 * i & 0x3F for i in reversed(range(length - 1)))]


# --- training ---------------------------------------------------------------------------------------------------


class Crash(Exception):
    """A simulated crash during training."""


class Crashing(Llama):
    """A model that raises Crash when `losses_left` training losses have been computed."""

    losses_left = -1  # never

    def loss(self, ids: Array, targets: Array) -> Tensor:
        if self.rng is not None:  # the generator is set while training, and None while evaluating
            if self.losses_left == 0:
                raise Crash
            self.losses_left -= 1
        return super().loss(ids, targets)


def fresh_model(case: Case, seed: int, method: str = "full") -> Crashing:
    """A small model, the same for the same seed, with all parameters trainable or only those of an adapter."""
    rng = np.random.default_rng(seed)
    model = Crashing(TINY, rng)
    if method != "full":
        dropout = 0.5 if "dropout" in method else 0.0
        targets = ["q_proj", "down_proj"]
        config = lora.LoraConfig(2, 4, target_modules=targets, lora_dropout=dropout, init_lora_weights=False)
        lora.inject(model, config, rng=rng)
    model.astype(case.dtype)
    return model


def draw_start(case: Case) -> Callable[[], Crashing]:
    """Draw a model, and return a function that creates an identical copy at each call."""
    start, method = int(case.rng.integers(2**32)), case.choice("method", ["full", "lora", "lora with dropout"])
    return lambda: fresh_model(case, start, method)


def draw_run(case: Case) -> Callable[..., History]:
    """Draw a training run of two or three steps, as a function of the model."""
    steps: dict[str, Any] = {name: case.size(name, 1, 3) for name in ("eval_every", "checkpoint_every")}
    steps |= {"iters": case.size("iters", 2, 3), "accumulate": case.size("accumulate", 1, 2)}
    seed = int(case.rng.integers(2**32))
    config = TrainingConfig(**steps, batch=2, context=4, eval_windows=1, lr=0.05, min_lr=0.01, warmup=1, seed=seed)
    ids = case.rng.integers(0, 11, 60)

    def run(model: Llama, path: Path | None = None, resume: bool = False) -> History:
        return train(model, ids[:40], ids[40:], config, checkpoint_path=path, resume=resume, quiet=True)

    return run


@law("runs", "resume(crash(run)) = run", "a checkpoint holds all state that a step depends on", bound=EXACT)
def a_resumed_run_is_one_that_never_stopped(case: Case) -> None:
    """A run that crashes at any step and is resumed ends with identical bits, losses and evaluations."""
    make, run = draw_start(case), draw_run(case)
    whole, crashed, resumed = make(), make(), make()
    expected = run(whole)
    crashed.losses_left = case.size("losses before the crash", 0, len(expected.losses) - 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        case.true("the run should have crashed, but it finished", crashes(run, crashed, path))
        history = run(resumed, path, resume=True)
    same_bits(case, resumed.state_dict(), whole.state_dict())
    same_history(case, history, expected)


@law("runs", "seed₁ = seed₂  ⇒  run₁ = run₂", "there is no hidden randomness", bound=EXACT)
def the_same_seed_gives_the_same_bytes(case: Case) -> None:
    """Two models initialized, trained and sampled with the same seeds are identical and generate the same tokens."""
    make, run = draw_start(case), draw_run(case)
    (one, first), (two, second) = ((model, run(model)) for model in (make(), make()))
    same_bits(case, two.state_dict(), one.state_dict())
    same_history(case, second, first)
    written = [generate(model, [np.array([1, 2])], 3, Sampler(1.0), seed=5)[0] for model in (one, two)]
    case.same("the generated tokens", written[1], written[0])


def crashes(run: Callable[..., History], model: Crashing, path: Path) -> bool:
    """Whether a run ends with Crash."""
    try:
        run(model, path)
    except Crash:
        return True
    return False


def same_history(case: Case, got: History, want: History) -> None:
    case.same("the losses", np.array(got.losses), np.array(want.losses))
    case.same("the evaluations", np.array(got.evaluations), np.array(want.evaluations))


@law("runs", "W ← W,  A ← A + …,  B ← B + …", "Hu et al. 2021 (LoRA), section 4.1", bound=EXACT)
def training_an_adapter_leaves_the_whole_base_as_it_was(case: Case) -> None:
    """Training changes A and B of every adapted layer; all other parameters stay bit-for-bit unchanged."""
    run = draw_run(case)
    model = fresh_model(case, int(case.rng.integers(2**32)))
    targets = case.choice("targets", [["q_proj"], ["o_proj", "up_proj"], "all-linear"])
    lora.inject(model, lora.LoraConfig(2, 4, target_modules=targets, init_lora_weights=False), rng=case.rng)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    run(model)
    for name, array in model.state_dict().items():
        if "lora_" in name:
            case.true(f"{name} was not trained", not np.array_equal(array, before[name]))
        else:
            case.same(name, array, before[name])


@law(
    "runs",
    "θ₁ = (1 - η λ) θ₀ - η sign(g); gains do not decay",
    "Kingma & Ba 2015, section 2.1; Loshchilov & Hutter 2019, algorithm 2",
)
def the_first_step_of_adamw_is_as_long_as_the_learning_rate(case: Case) -> None:
    """After bias correction, the first step uses only the gradient's sign; each parameter group has its own decay."""
    W = Tensor(case.array("W", case.size("out", 1, 4), case.size("in", 1, 4)), requires_grad=True)
    w = Tensor(case.array("w", case.size("width", 1, 4)), requires_grad=True)
    lr, decay, before = case.number("lr", positive=True), case.number("decay", positive=True), (W.data, w.data)
    optimizer = AdamW([ParameterGroup([("W", W)], decay), ParameterGroup([("w", w)])], eps=0)
    W.grad, w.grad = case.array("g_W", *W.shape), case.array("g_w", *w.shape)
    signs = np.sign(W.grad), np.sign(w.grad)
    optimizer.step(lr)
    case.equal("W", W.data, (1 - lr * decay) * before[0] - lr * signs[0])
    case.equal("w", w.data, before[1] - lr * signs[1])
