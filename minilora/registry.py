"""The modules in which adaptation methods are defined. They are imported when a method is looked up, not before.

A package that adds methods appends the names of its modules, as `minilora/family` does.
"""

MODULES = ["minilora.lora.config"]
