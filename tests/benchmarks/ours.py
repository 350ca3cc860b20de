"""minilora's side of the comparisons: model sizes, batches, and a training step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minilora import lora
from minilora.data import load_ids
from minilora.data.batches import sample_batch
from minilora.nn import Llama, LlamaConfig
from minilora.training import Run, TrainingConfig
from tests.benchmarks.equal import STEPS

SETTINGS = TrainingConfig(lr=3e-3, context=1, schedule="constant", warmup=0)  # the batches set the context length
"""minilora's default weight decay, β₁, β₂ and clipping, for all programs. The learning rate is constant."""

BATCHES = 64
Batch = tuple[np.ndarray, np.ndarray]
Step = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Size:
    """The dimensions of a model and of its batches."""

    layers: int
    width: int
    ffn: int
    context: int
    batch: int
    heads: int

    def __str__(self) -> str:
        return f"{self.layers}/{self.width}/{self.ffn}/{self.context}/{self.batch}"


SIZES = (
    Size(4, 128, 352, 64, 12, heads=4),
    Size(4, 128, 352, 128, 32, heads=4),
    Size(6, 192, 512, 128, 32, heads=6),
    Size(6, 192, 512, 256, 16, heads=6),
)
TINY = Size(2, 32, 48, 16, 4, heads=2)


@dataclass(frozen=True)
class Options:
    """Measurement options.

    Attributes
    ----------
    rounds : number of turns of each program
    tiny : small models and one call per turn, only to show that everything works
    threads : number of threads for programs that run as separate processes
    llama2c, nanogpt : folders with clones of these repositories
    """

    rounds: int = 20
    tiny: bool = False
    threads: int = 1
    llama2c: Path | None = None
    nanogpt: Path | None = None

    def sizes(self, *rows: int) -> list[Size]:
        """Return the sizes in these rows of SIZES, counted from 1; with `tiny`, only the tiny size."""
        return [TINY] if self.tiny else [SIZES[row - 1] for row in rows]

    @property
    def timing(self) -> dict[str, Any]:
        """Keyword arguments for `compare`."""
        return {"rounds": self.rounds, **({"turn": 0.0} if self.tiny else {})}


def fresh_model(size: Size, context: int | None = None, heads: int | None = None) -> Llama:
    """An untrained model, the same at each call. `heads`: number of key/value heads, by default that of query heads."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=size.width,
        intermediate_size=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=heads,
        max_position_embeddings=context or size.context,
    )
    return Llama(config, np.random.default_rng(0))


def with_lora(model: Llama, adapter: str = "default", seed: int = 1, **options: Any) -> Llama:
    """Freeze the model and add an adapter with r = 8 and α = 16 to every Linear except the head."""
    config = lora.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", **options)
    lora.inject(model, config, adapter, rng=np.random.default_rng(seed))
    return model


def batches(size: Size) -> list[Batch]:
    """A cycle of batches from the built-in corpus, drawn in advance so that no program's time includes them.

    The first batch comes again after as many steps as the check of the losses takes. The other batches are too many for
    a model to memorize; if it did, its gradients would become so small (denormal) that the CPU slows down.
    """
    ids, _ = load_ids("pastiche")
    rng = np.random.default_rng(2)
    drawn = [sample_batch(ids, size.batch, size.context, rng) for _ in range(BATCHES)]
    drawn[STEPS] = drawn[0]
    return [(np.ascontiguousarray(x, np.int64), np.ascontiguousarray(y, np.int64)) for x, y in drawn]


def in_turn(step: Step, circle: list[Any]) -> Callable[[], Any]:
    """A function without arguments that calls `step` on the next batch."""
    endless = itertools.cycle(circle)
    return lambda: step(*next(endless))


def training_step(model: Llama) -> Step:
    """The step that `minilora.training.train` runs for each batch, on all trainable parameters; it returns the loss.

    Like `train`, it makes the C library keep freed memory. This affects the entire process, so other programs that are
    timed in it are not slower, and may be faster than on their own.
    """
    run = Run(model, None, None, SETTINGS)
    return lambda ids, targets: run.step([(ids, targets)])
