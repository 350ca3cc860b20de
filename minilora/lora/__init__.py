"""LoRA: low-rank adaptation of a frozen model.

To read the code, start with `adapters/update.py` and `adapters/host.py`, and continue with `lora.py`. To use it:

from minilora import lora
lora.inject(model, lora.LoraConfig(r=8, lora_alpha=16), adapter="bard", rng=np.random.default_rng(0))

The functions that work for every method (attaching, merging, files) are defined in `minilora/adapters` and available
here as well.
"""

from minilora.adapters.attach import active, adapters, delete_adapter, disabled, set_active, unload
from minilora.adapters.base import find_base
from minilora.adapters.count import Report, report
from minilora.adapters.files import load_adapter, read_adapter, save_adapter
from minilora.adapters.host import AdaptedLinear
from minilora.adapters.merge import MergeCheck, merge, merge_and_unload, merge_check, merge_difference, unmerge
from minilora.lora.adapt import LoraLinear, inject
from minilora.lora.config import LoraConfig
from minilora.lora.mix import Mixture, mix
from minilora.lora.peft import PeftModel, get_peft_model
from minilora.nn.module import AdapterError

__all__ = [
    "AdaptedLinear",
    "AdapterError",
    "LoraConfig",
    "LoraLinear",
    "MergeCheck",
    "Mixture",
    "PeftModel",
    "Report",
    "active",
    "adapters",
    "delete_adapter",
    "disabled",
    "find_base",
    "get_peft_model",
    "inject",
    "load_adapter",
    "merge",
    "merge_and_unload",
    "merge_check",
    "merge_difference",
    "mix",
    "read_adapter",
    "report",
    "save_adapter",
    "set_active",
    "unload",
    "unmerge",
]
