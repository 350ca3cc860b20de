"""The memory of a training step: where LoRA saves memory and where it does not.

A training step uses memory for four purposes. The *weights* are needed in any case. The *gradients* and the *optimizer
state* grow with the number of trainable parameters, which for LoRA are only A and B. The *activations*, which the
forward pass stores for the backward pass, grow with the number of tokens. LoRA needs nearly all of them too, because
the gradient still passes through every layer, and the gradient of each A needs the input of its layer.
"""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from minilora.nn import Llama
from minilora.training.config import TrainingConfig
from minilora.training.pieces import Batch
from minilora.training.run import Run

STEPS = 3  # number of measured steps


@dataclass(frozen=True)
class StepMemory:
    """Memory of one training step, in bytes.

    Attributes
    ----------
    weights : all parameters, trainable or frozen; a shared parameter, such as a tied head, counts once
    gradients : the buffer in which the gradients are accumulated
    optimizer : AdamW's two moments and its work buffer, each the same size as the gradients
    activations : peak memory of the step beyond the other three: mostly activations, plus temporary arrays such as the
        gradients of the parts of the batch being processed. It grows with the number of threads, because each thread
        processes its own part
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def peak(self) -> int:
        """The peak memory of the step: the sum of the four."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def __repr__(self) -> str:
        sizes = {**dataclasses.asdict(self), "peak": self.peak}
        return f"StepMemory({', '.join(f'{name} {size / 1e6:.2f} MB' for name, size in sizes.items())})"


def step_memory(model: Llama, batch: Batch, threads: int | None = None) -> StepMemory:
    """Measure the memory used to train `model` for one step on `batch`.

    The model is left unchanged. The sizes of weights, gradients and optimizer state are those of their arrays, which
    are all allocated before the step. The memory that a step needs beyond them is measured by `tracemalloc`, to which
    NumPy reports its allocations. It is the maximum over three steps, because the overlap between threads varies. One
    unmeasured step runs first, so that modules are imported and threads started. Arrays of other libraries and the
    internal buffers of NumPy's BLAS are not included.

    Parameters
    ----------
    batch : inputs and targets, each (batch, context)
    threads : number of pieces of the batch computed in parallel, by default one per core

    Raises AdapterError while adapters are merged, and ValueError if no parameter is trainable.
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
        for p, data, grad in before:  # the optimizer replaced these with views of its buffers
            p.data, p.grad = data, grad
        if rng is None:
            model.eval()
        else:
            model.train(rng)


def _most_taken(work: Callable[[], object]) -> int:
    """The peak memory allocated during `work`, in bytes, beyond what was allocated before."""
    tracing = tracemalloc.is_tracing()  # the caller may be tracing already
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
