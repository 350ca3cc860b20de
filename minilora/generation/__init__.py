"""Text generation: token sampling (`sampling.py`), the decode loop (`decode.py`), and simple calls (`generate.py`)."""

from minilora.generation.decode import Decoding, decode
from minilora.generation.generate import generate, stream, write, write_stream
from minilora.generation.request import Request, Token
from minilora.generation.sampling import Sampler

__all__ = ["Decoding", "Request", "Sampler", "Token", "decode", "generate", "stream", "write", "write_stream"]
