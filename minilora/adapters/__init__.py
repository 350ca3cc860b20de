"""Adapters of any method: the adapted layer, attaching, merging, per-row adapters, counting, files.

Reading order: `update.py` (what a method computes), `host.py` (the layer that holds updates), then `lora/lora.py`;
after that `merge.py`, `method.py` (a method's settings), `attach.py`, `rows.py` and `files.py`. Nothing here depends on
a particular method.
"""
