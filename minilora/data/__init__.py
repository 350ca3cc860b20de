"""Training data: corpora, the tokenizer and batches.

Reading order: `sources.py`, `corpora.py`, `tokenizer.py`, `batches.py`. `pastiche.py` generates text.
"""

from minilora.data.corpora import Corpus, load_corpus, load_ids, split
from minilora.data.sources import CorpusError
from minilora.data.tokenizer import ByteTokenizer

__all__ = ["ByteTokenizer", "Corpus", "CorpusError", "load_corpus", "load_ids", "split"]
