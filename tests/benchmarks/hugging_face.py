"""minilora's models in transformers, loaded from the folders that minilora saves."""

from __future__ import annotations

import os
import tempfile
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # must be set before transformers is imported; nothing is downloaded
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers

from minilora.nn import Llama

transformers.utils.logging.disable_progress_bar()


def in_transformers(model: Llama) -> Any:
    """Return transformers' LlamaForCausalLM with the same weights in float32, loaded from a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
