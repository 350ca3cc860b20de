"""A LoRA step: minilora against PEFT on transformers' LlamaForCausalLM, with the same size and weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import peft
import torch
import torch.nn.functional as F

from minilora import lora
from tests.benchmarks import ours, torch_llama
from tests.benchmarks.equal import same_losses
from tests.benchmarks.hugging_face import in_transformers
from tests.benchmarks.interleave import Row, compare
from tests.benchmarks.ours import Options, Size

PEFT = "PEFT on transformers"


def run(options: Options) -> list[Row]:
    (size,) = options.sizes(3)
    programs = steps(size)
    return compare(f"LoRA step, {size}", programs, check=partial(same_losses, programs), **options.timing)


def steps(size: Size) -> dict[str, Callable[[], Any]]:
    """A LoRA step of each library. PEFT loads the adapter that minilora saves, so both start with the same A and B."""
    base = in_transformers(ours.fresh_model(size))
    model = ours.with_lora(ours.fresh_model(size))
    with tempfile.TemporaryDirectory() as folder:
        lora.save_adapter(model, folder)
        theirs = peft.PeftModel.from_pretrained(base, folder, is_trainable=True).train()

    def loss_of(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # `labels=` would shift the ids inside the model, which omits the last position of each row. Training needs no
        # KV cache.
        logits = theirs(input_ids=ids, use_cache=False).logits
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    circle = ours.batches(size)
    their_step = torch_llama.training_step(theirs.parameters(), loss_of)
    return {
        "minilora": ours.in_turn(ours.training_step(model), circle),
        PEFT: ours.in_turn(their_step, torch_llama.as_tensors(circle)),
    }
