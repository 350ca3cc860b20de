"""Layers with the interface that the laws expect: minilora's, PEFT's, and a twenty-line example."""
