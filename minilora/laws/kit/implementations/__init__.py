"""Layers in the form that the laws expect: minilora's own, PEFT's, and one of twenty lines to compare yours with."""
