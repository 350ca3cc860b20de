"""What the package carries with it: the pretrained base model, and voices for it."""

from pathlib import Path

BASE = Path(__file__).parent / "base"
"""Folder of the base model, for `Llama.from_pretrained(BASE)`; its card is README.md in it."""

VOICES = Path(__file__).parent / "voices"
"""Folder of the voices, LoRA adapters in PEFT's layout for the base, each in a folder of its name with its card."""
