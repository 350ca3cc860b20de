"""minilora: LoRA that you can read in one sitting, in NumPy.

    import minilora as ml

    model = ml.load_model()  # the packaged base model, or a folder in Hugging Face's layout
    ml.lora.inject(model, r=8)
    ml.train(model, *ml.load_ids("my.txt"), iters=200, lr=5e-3)
    print(ml.write(model, "The king ", temperature=0.7))

To read the code, start at `minilora/autograd/tensor.py`; LoRA is in `minilora/lora/lora.py`. The names below and the
packages (`ml.lora`, `ml.laws`, ...) are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from minilora import family  # registers the methods

if TYPE_CHECKING:
    from minilora import adapters, autograd, data, generation, laws, lora, nn, runs, training, voices
    from minilora.autograd import Tensor, gradients, no_grad
    from minilora.data import load_ids
    from minilora.generation import write
    from minilora.lora import get_peft_model
    from minilora.nn import load_model
    from minilora.training import train
    from minilora.voices import compare

__version__ = "0.1.0"

__all__ = [
    "Tensor",
    "adapters",
    "autograd",
    "compare",
    "data",
    "family",
    "generation",
    "get_peft_model",
    "gradients",
    "laws",
    "load_ids",
    "load_model",
    "lora",
    "nn",
    "no_grad",
    "runs",
    "train",
    "training",
    "voices",
    "write",
]

_PACKAGE_OF = {
    "Tensor": "autograd",
    "compare": "voices",
    "get_peft_model": "lora",
    "gradients": "autograd",
    "load_ids": "data",
    "load_model": "nn",
    "no_grad": "autograd",
    "train": "training",
    "write": "generation",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'minilora' has no attribute {name!r}")
    if name in _PACKAGE_OF:
        return getattr(import_module(f"minilora.{_PACKAGE_OF[name]}"), name)
    return import_module(f"minilora.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
