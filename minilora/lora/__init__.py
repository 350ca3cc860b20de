"""LoRA: low-rank adaptation of a frozen model. Read `adapters/update.py` and `adapters/host.py`, then `lora.py`.

from minilora import lora
lora.inject(model, lora.LoraConfig(r=8, lora_alpha=16), adapter="bard", rng=np.random.default_rng(0))

What works for every method (attaching, merging, files) is in `minilora/adapters`, and is offered here as well.
"""

from minilora.adapters.attach import active, adapters, delete_adapter, disabled, inject, set_active, unload
from minilora.adapters.count import Report, report
from minilora.adapters.files import load_adapter, read_adapter, save_adapter
from minilora.adapters.host import AdaptedLinear
from minilora.adapters.merge import MergeCheck, merge, merge_and_unload, merge_check, merge_difference, unmerge
from minilora.lora.config import LoraConfig
from minilora.lora.mix import Mixture, mix
from minilora.nn.module import AdapterError

LoraLinear = AdaptedLinear

__all__ = [
    "AdaptedLinear",
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
