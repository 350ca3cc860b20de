"""minilora's side of the comparisons: models of the sizes that are compared, their batches, and a training step."""

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

SETTINGS = TrainingConfig(lr=3e-3, context=1, schedule="constant", warmup=0)  # batches bring their own context
"""Decay, β₁, β₂ and clipping as minilora trains by default, for all programs; the learning rate stays where it is."""

BATCHES = 64
Batch = tuple[np.ndarray, np.ndarray]
Step = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Size:
    """How large a model is, and how much it reads in a step."""

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
    """How to measure.

    Attributes
    ----------
    rounds : turns of each program
    tiny : only show that everything works: small models, one call a turn
    threads : for programs that run as processes of their own
    llama2c, nanogpt : folders with clones of these repositories
    """

    rounds: int = 20
    tiny: bool = False
    threads: int = 1
    llama2c: Path | None = None
    nanogpt: Path | None = None

    def sizes(self, *rows: int) -> list[Size]:
        """The sizes of these rows of the table, counted from 1; the tiny one in their place with `tiny`."""
        return [TINY] if self.tiny else [SIZES[row - 1] for row in rows]

    @property
    def timing(self) -> dict[str, Any]:
        """What `compare` is to know."""
        return {"rounds": self.rounds, **({"turn": 0.0} if self.tiny else {})}


def fresh_model(size: Size, context: int | None = None, heads: int | None = None) -> Llama:
    """A model that has learned nothing; the same one at each call. `heads`: of the keys, if fewer than of queries."""
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
    """The model, frozen, with an adapter of rank 8 and α 16 on every Linear but the head."""
    config = lora.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", **options)
    lora.inject(model, config, adapter, rng=np.random.default_rng(seed))
    return model


def batches(size: Size) -> list[Batch]:
    """A circle of batches of text that minilora writes itself, made beforehand: no program's time includes them.

    After as many steps as the check of the losses takes, the first batch comes again; then enough others that a model
    does not learn them by heart, when its gradients would become so small that the processor is slow with them.
    """
    ids, _ = load_ids("pastiche")
    rng = np.random.default_rng(2)
    drawn = [sample_batch(ids, size.batch, size.context, rng) for _ in range(BATCHES)]
    drawn[STEPS] = drawn[0]
    return [(np.ascontiguousarray(x, np.int64), np.ascontiguousarray(y, np.int64)) for x, y in drawn]


def in_turn(step: Step, circle: list[Any]) -> Callable[[], Any]:
    """A program without arguments: at each call, `step` on the next batch."""
    endless = itertools.cycle(circle)
    return lambda: step(*next(endless))


def training_step(model: Llama) -> Step:
    """What `minilora.training.train` does for each batch, on whatever wants a gradient; returns the loss.

    `train` also asks the C library, once, to keep freed memory. That holds for the whole process, so that a peer
    that is timed in it is not slower for it, and may be faster than it is on its own.
    """
    run = Run(model, None, None, SETTINGS)
    return lambda ids, targets: run.step([(ids, targets)])
