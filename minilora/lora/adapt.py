"""Adding LoRA to a model, or to a single matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.adapters import attach
from minilora.adapters.host import AdaptedLinear
from minilora.adapters.method import Method
from minilora.adapters.settings import replace_settings
from minilora.autograd.tensor import Tensor
from minilora.lora.config import LoraConfig
from minilora.messages import expect
from minilora.nn import Linear, Module


def inject(
    model: Module,
    config: Method | None = None,
    adapter: str = "default",
    *,
    rng: np.random.Generator | int = 0,
    **settings: Any,
) -> None:
    """Freeze the model, attach a new adapter to the Linear layers that `config` selects, and make it the active one.

    `inject(model, r=8)` attaches LoRA to every q_proj and v_proj, which is PEFT's default for Llama.

    Parameters
    ----------
    config : a LoraConfig, or the config of any other method; by default LoraConfig()
    adapter : name of the adapter
    rng : a generator, or a seed for one, to initialize the adapter; the same seed gives the same values
    settings : fields of the config, such as r, lora_alpha or target_modules

    The adapter's parameters are named `<path>.lora_A.<adapter>` and `<path>.lora_B.<adapter>`; those of the model keep
    their names and values. Raises AdapterError, before anything is changed, if a target matches no module, the name
    is taken or invalid, or adapters are merged.
    """
    config = LoraConfig() if config is None else config
    expect(config, Method, "a config such as LoraConfig(r=8)")
    attach.inject(model, replace_settings(config, settings), adapter, rng=rng)


class LoraLinear(AdaptedLinear):
    """One frozen matrix with a trainable LoRA adapter, named "default":  h = W x + s · B A x,  s = α/r.

    Parameters
    ----------
    weight : W (out, in), an array or a list of rows; it is copied
    r, lora_alpha : rank and α
    rng : a generator, or a seed for one, to initialize A; B starts at zero
    settings : other fields of LoraConfig, such as lora_dropout, use_rslora or init_lora_weights

    `layer(Tensor(x))` computes h; `layer.parameters(trainable=True)` is [A, B]; `layer.delta("default")` is s · B A.
    """

    def __init__(
        self,
        weight: Any,
        r: int = 8,
        lora_alpha: float = 8,
        *,
        rng: np.random.Generator | int = 0,
        **settings: Any,
    ) -> None:
        W = np.array(weight.data if isinstance(weight, Tensor) else weight)
        if W.ndim != 2:
            raise ValueError(f"expected a matrix of shape (out, in), got shape {W.shape}")
        super().__init__(Linear(Tensor(W if W.dtype.kind == "f" else W.astype(np.float32))))
        config = LoraConfig(r=r, lora_alpha=lora_alpha, **settings)
        drawn = config.draw("", self.base, np.random.default_rng(rng))
        tensors = {name: Tensor(array.astype(self.dtype)) for name, array in drawn.items()}
        self.attach("default", config.make_update("", tensors), config)
        self.activate({"default": 1.0})
