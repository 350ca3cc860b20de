"""minilora: LoRA that you can read in one sitting, in NumPy.

Start at `minilora/autograd/tensor.py`; the subject is `minilora/lora/linear.py`.
"""

from minilora.autograd import Tensor, gradients, no_grad

__all__ = ["Tensor", "gradients", "no_grad"]
__version__ = "0.1.0"
