"""Adapters of any method on a frozen model: the layer that holds them, attaching, merging, rows, counts and files.

Reading order: `update.py` (what a method computes), `host.py` (the layer that holds updates), then `lora/lora.py`;
after that `merge.py`, `method.py` (a method's settings) and `attach.py`. Nothing here knows a method.
"""
