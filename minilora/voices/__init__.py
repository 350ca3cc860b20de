"""Voices: the adapters that the package carries, and what a text sounds like. Start at `compare.py`.

from minilora.voices import compare
for text in compare("The king", ["base", "shakespeare", {"shakespeare": 0.5, "python": 0.5}]): print(text.text)
"""

from minilora.voices.compare import Letter, Text, compare, stream
from minilora.voices.packs import NAMES, Voice, attach, voice_folder, voices

__all__ = ["NAMES", "Letter", "Text", "Voice", "attach", "compare", "stream", "voice_folder", "voices"]
