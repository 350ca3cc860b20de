"""minilora's models, opened in transformers from the folders that minilora writes."""

from __future__ import annotations

import os
import tempfile
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported; nothing is fetched here
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers

from minilora.nn import Llama

transformers.utils.logging.disable_progress_bar()


def in_transformers(model: Llama) -> Any:
    """transformers' LlamaForCausalLM with the same weights, in float32, by way of a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
