"""minilora: LoRA that you can read in one sitting, in NumPy.

Start at `minilora/autograd/tensor.py`; the subject is `minilora/lora/lora.py`.
"""

__version__ = "0.1.0"

from minilora import family  # makes the methods known
from minilora.autograd import Tensor, gradients, no_grad

__all__ = ["Tensor", "family", "gradients", "no_grad"]
