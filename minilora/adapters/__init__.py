"""Code shared by all adapter methods: the adapted layer, attaching, merging, per-row adapters, counting and files.

Suggested reading order: `update.py` (the update that a method computes), `host.py` (the layer that holds the updates)
and `lora/lora.py`; then `merge.py`, `method.py` (the settings of a method), `attach.py`, `rows.py` and `files.py`.
Nothing in this package depends on a particular method.
"""
