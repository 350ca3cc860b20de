"""The packaged voices, and the comparison of their texts with the base model's. Start with `compare.py`.

from minilora.voices import compare
for text in compare("The king", ["base", "shakespeare", {"shakespeare": 0.5, "python": 0.5}]): print(text.text)
"""

from minilora.voices.colored import LEVELS, level, spans
from minilora.voices.compare import ComparedText, ComparedToken, Comparison, compare, stream
from minilora.voices.packs import BASE, NAMES, Voice, attach, load_named, names_in, voice_folder, voices

__all__ = [
    "BASE",
    "LEVELS",
    "NAMES",
    "ComparedText",
    "ComparedToken",
    "Comparison",
    "Voice",
    "attach",
    "compare",
    "level",
    "load_named",
    "names_in",
    "spans",
    "stream",
    "voice_folder",
    "voices",
]
