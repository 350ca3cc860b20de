"""The packaged data: the pretrained base model and the voices for it."""

from pathlib import Path

BASE = Path(__file__).parent / "base"
"""Folder of the base model, for `Llama.from_pretrained(BASE)`. Its model card is README.md in that folder."""

VOICES = Path(__file__).parent / "voices"
"""Folder of the voices: LoRA adapters for the base in PEFT's layout, each in a folder of its name with a model card."""
