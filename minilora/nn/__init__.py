"""The Llama model. Reading order: `module.py`, `layers.py`, `attention.py`, `llama.py`."""

from minilora.nn.config import LlamaConfig
from minilora.nn.layers import Embedding, Linear, RMSNorm
from minilora.nn.llama import Cache, Llama, load_model
from minilora.nn.module import Module

__all__ = ["Cache", "Embedding", "Linear", "Llama", "LlamaConfig", "Module", "RMSNorm", "load_model"]
