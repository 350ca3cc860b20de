"""LoRA: low-rank adaptation of a frozen model. Start at `linear.py`, then `inject.py`, then `merge.py`.

from minilora import lora
lora.inject(model, lora.LoraConfig(r=8, lora_alpha=16), adapter="bard", rng=np.random.default_rng(0))
"""

from minilora.lora.config import AdapterError, LoraConfig
from minilora.lora.count import Report, report
from minilora.lora.files import load_adapter, read_adapter, save_adapter
from minilora.lora.inject import active, adapters, delete_adapter, disabled, inject, set_active, unload
from minilora.lora.linear import LoraLinear
from minilora.lora.merge import MergeCheck, merge, merge_and_unload, merge_check, merge_difference, unmerge
from minilora.lora.mix import Mixture, mix

__all__ = [
    "AdapterError",
    "LoraConfig",
    "LoraLinear",
    "MergeCheck",
    "Mixture",
    "Report",
    "active",
    "adapters",
    "delete_adapter",
    "disabled",
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
