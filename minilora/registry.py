"""Names of the modules that define adaptation methods, imported when a method is first looked up.

A package that adds methods appends the names of its modules, as `minilora/family` does.
"""

MODULES = ["minilora.lora.config"]
