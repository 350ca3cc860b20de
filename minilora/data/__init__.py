"""Text to learn from: corpora, the tokenizer, batches."""
