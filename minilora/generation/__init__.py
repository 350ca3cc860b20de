"""Text generation: sampling (`sampling.py`), decode loop (`decode.py`) and convenience functions (`generate.py`)."""

from minilora.generation.decode import Decoding, decode
from minilora.generation.generate import generate, stream, write, write_stream
from minilora.generation.request import Request, Token
from minilora.generation.sampling import Sampler

__all__ = ["Decoding", "Request", "Sampler", "Token", "decode", "generate", "stream", "write", "write_stream"]
