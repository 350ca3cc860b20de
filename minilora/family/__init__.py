"""LoRA's relatives, one file each. Importing this package registers them; so does `import minilora`."""

from minilora.family import dora

__all__ = ["dora"]
