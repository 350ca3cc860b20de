"""What draws cases and judges: a law (`law.py`), the case it is tried on, the layer it is held against, the verdict."""
