"""Models with activations of order 1. With small weights, attention is close to an average, which hides mistakes."""

import numpy as np

from minilora.nn import Llama, LlamaConfig


def unit_scale_llama(seed, **config):
    """A model with weights of standard deviation 1/√in, embeddings of standard deviation 1, and norm gains around 1."""
    rng = np.random.default_rng(seed)
    model = Llama(LlamaConfig(**config), rng)
    for name, p in model.named_parameters():
        noise = rng.standard_normal(p.shape, dtype=np.float32)
        p.data[...] = 1 + 0.3 * noise if "norm" in name else noise if "embed" in name else noise / p.shape[1] ** 0.5
    return model
