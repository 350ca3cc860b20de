"""LoRA's relatives, one file each. `import minilora` registers them; each is imported on first use."""

from minilora.registry import MODULES

MODULES += ["minilora.family.dora"]
