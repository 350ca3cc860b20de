"""Tools for checking laws: the law (`law.py`), its random cases, the interface of a layer, and the verdict."""
