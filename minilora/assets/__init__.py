"""What the package carries with it: the pretrained base model."""

from pathlib import Path

BASE = Path(__file__).parent / "base"
"""Folder of the base model, for `Llama.from_pretrained(BASE)`; its card is README.md in it."""
