"""LoRA's relatives, one file each. `import minilora` makes them known; they are loaded when they are needed."""

from minilora.registry import MODULES

MODULES += ["minilora.family.dora"]
