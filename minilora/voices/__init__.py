"""Voices: the adapters that the package carries, and texts compared with the base. Start at `compare.py`.

from minilora.voices import compare
for text in compare("The king", ["base", "shakespeare", {"shakespeare": 0.5, "python": 0.5}]): print(text.text)
"""

from minilora.voices.compare import BASE, LEVELS, Letter, Text, compare, level, stream
from minilora.voices.packs import NAMES, Voice, attach, voice_folder, voices

__all__ = [
    "BASE",
    "LEVELS",
    "NAMES",
    "Letter",
    "Text",
    "Voice",
    "attach",
    "compare",
    "level",
    "stream",
    "voice_folder",
    "voices",
]
