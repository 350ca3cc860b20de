"""Variants of LoRA, one file each. `import minilora` registers them; they are imported on the first method lookup."""

from minilora.registry import MODULES

MODULES += ["minilora.family.dora"]
