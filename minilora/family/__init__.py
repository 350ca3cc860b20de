"""Variants of LoRA, one file each. `import minilora` only lists them; the first method lookup imports them."""

from minilora.registry import MODULES

MODULES += ["minilora.family.dora"]
