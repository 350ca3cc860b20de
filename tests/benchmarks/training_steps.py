"""Training steps: minilora against PyTorch, eager and compiled, for the full model and for LoRA."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tests.benchmarks import ours, torch_llama
from tests.benchmarks.equal import same_losses
from tests.benchmarks.interleave import Row, compare
from tests.benchmarks.ours import Options, Size

EAGER, COMPILED = "PyTorch eager", "PyTorch compiled"
FULL_GOALS = ({EAGER: 1.3, COMPILED: 1.0}, {EAGER: 1.2}, {EAGER: 1.15, COMPILED: 1.0}, {EAGER: 1.1})
LORA_GOALS = {EAGER: 1.5}
LORA_AGAINST_FULL = 1 / 0.72


def run(options: Options) -> list[Row]:
    """Full and LoRA steps for each size, then minilora's LoRA step against its own full step for the third size."""
    missing = torch_llama.why_not_compiled()
    rows = []
    for size, goals in zip(options.sizes(1, 2, 3, 4), FULL_GOALS, strict=False):
        rows += against_torch("full step", size, False, goals, missing, options)
        rows += against_torch("LoRA step", size, True, LORA_GOALS, missing, options)
    return rows + lora_against_full(options)


def against_torch(
    what: str, size: Size, adapted: bool, goals: dict[str, float], missing: str, options: Options
) -> list[Row]:
    """Return the rows for one size. `missing` is the reason why there is no compiled program, or empty."""
    what = f"{what}, {size}"
    programs = steps(size, adapted, compiled=not missing)
    rows = compare(what, programs, goals=goals, check=partial(same_losses, programs), **options.timing)
    torch._dynamo.reset()  # compile the next size from scratch; it must not count as a recompilation
    return rows + ([Row(what, COMPILED, goal=goals.get(COMPILED), refusal=missing)] if missing else [])


def steps(size: Size, adapted: bool, compiled: bool) -> dict[str, Callable[[], Any]]:
    """A training step of each program. All start from the same weights and use the same batches."""
    model = ours.fresh_model(size)
    if adapted:
        ours.with_lora(model)
    circle = ours.batches(size)
    theirs = {EAGER: torch_llama.from_minilora(model)}
    calls: dict[str, Callable[..., torch.Tensor]] = {EAGER: theirs[EAGER]}
    if compiled:
        theirs[COMPILED] = torch_llama.from_minilora(model)
        calls[COMPILED] = torch.compile(theirs[COMPILED], dynamic=False)
    tensors = torch_llama.as_tensors(circle)
    peers = {
        name: ours.in_turn(torch_llama.training_step(theirs[name].parameters(), calls[name]), tensors)
        for name in theirs
    }
    # minilora comes last, because its optimizer moves the weights into a flat buffer.
    return {"minilora": ours.in_turn(ours.training_step(model), circle), **peers}


def lora_against_full(options: Options) -> list[Row]:
    """minilora's LoRA step against its own full step. They train different parameters, so losses are not compared."""
    (size,) = options.sizes(3)
    circle = ours.batches(size)
    models = {"minilora": ours.with_lora(ours.fresh_model(size)), "minilora's full step": ours.fresh_model(size)}
    programs = {name: ours.in_turn(ours.training_step(model), circle) for name, model in models.items()}
    goals = {"minilora's full step": LORA_AGAINST_FULL}
    return compare(f"LoRA step, {size}", programs, goals=goals, **options.timing)
