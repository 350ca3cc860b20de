"""What a training step needs of memory, and for what: where LoRA saves some, and where it does not.

Four things take memory. The *weights* are there anyway. The *gradients* and the *optimizer's state* grow with what is
trained: for LoRA, A and B alone. The *activations*, which the forward pass leaves for the backward pass, grow with the
tokens; LoRA needs nearly all of them too: the gradient still comes down through every layer, and each A's gradient
needs its layer's input.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from minilora.nn import Llama
from minilora.training.config import TrainingConfig
from minilora.training.pieces import Batch
from minilora.training.run import Run

STEPS = 3  # measured


@dataclass(frozen=True)
class StepMemory:
    """Memory of one training step, in bytes.

    Attributes
    ----------
    weights : all parameters, trained or frozen; one that is used twice, such as a tied head, counts once
    gradients : the buffer that a batch's gradient is added up in
    optimizer : AdamW's two moments, and the buffer of the same size in which it works
    activations : the most that the step took on top of these at any moment: activations for the most part, and what is
        needed for a moment, such as the gradients of the pieces that are worked on. It grows with the threads, each
        of which works on a piece of its own
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def peak(self) -> int:
        """All of it, at the moment when it is most."""
        return self.weights + self.gradients + self.optimizer + self.activations


def step_memory(model: Llama, batch: Batch, threads: int | None = None) -> StepMemory:
    """Measure a step of training what wants a gradient in `model`, on `batch`; the model stays as it is.

    The sizes of weights, gradients and optimizer state are those of their arrays, which are all there before the step.
    What a step takes beyond them is measured by `tracemalloc`, to which NumPy reports its arrays: the most in three
    steps, because how the threads' work overlaps is chance. One unmeasured step goes before: it imports and starts what
    is missing. Arrays of other libraries, and what NumPy's BLAS takes for itself, are not seen.

    Parameters
    ----------
    batch : inputs and targets, each (batch, context)
    threads : pieces of the batch worked on at a time, by default one per core

    Raises AdapterError while adapters are merged, and ValueError when nothing wants a gradient.
    """
    before, rng = [(p, p.data, p.grad) for p in model.parameters()], model.rng
    try:
        rows, context = batch[0].shape
        run = Run(model, None, None, TrainingConfig(batch=rows, context=context), threads=threads)
        run.step([batch])
        activations = _most_taken(lambda: [run.step([batch]) for _ in range(STEPS)])
        weights = sum(p.data.nbytes for p in model.parameters())
        return StepMemory(weights, run.optimizer.grad.nbytes, run.optimizer.nbytes, activations)
    finally:
        for p, data, grad in before:  # the optimizer has put views of its buffers in their place
            p.data, p.grad = data, grad
        if rng is None:
            model.eval()
        else:
            model.train(rng)


def _most_taken(work: Callable[[], object]) -> int:
    """The most bytes that `work` held at any moment, beyond what was there before."""
    tracing = tracemalloc.is_tracing()  # someone else may be measuring
    if not tracing:
        tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not tracing:
            tracemalloc.stop()
