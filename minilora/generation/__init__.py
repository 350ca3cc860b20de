"""Generation: `sampling.py` chooses a token, `generate.py` goes on from there."""

from minilora.generation.generate import generate, stream, write, write_stream
from minilora.generation.sampling import Sampler

__all__ = ["Sampler", "generate", "stream", "write", "write_stream"]
