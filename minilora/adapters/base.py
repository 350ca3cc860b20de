"""The base model of an adapter, as its folder records it.

`adapter_config.json` has the path or name of the base in PEFT's entry `base_model_name_or_path`. The metadata of the
tensor file has a fingerprint of the base's weights; it is not in the config because PEFT warns about unknown entries.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from minilora.adapters.files import recorded_base
from minilora.adapters.fingerprint import fingerprint
from minilora.assets import BASE
from minilora.messages import one_line, shown
from minilora.nn.llama import load_model
from minilora.nn.module import AdapterError


def find_base(*adapters: str | Path) -> Path:
    """Return the folder of the base model of adapters: `ml.load_model(lora.find_base("runs/bard"))`.

    Each of `adapters` is a folder or the name of a packaged voice. If no base is recorded, return the packaged base. If
    the recorded folder does not exist, return the packaged base if its fingerprint is the recorded one or, with a
    warning, if no fingerprint is recorded.

    Raises AdapterError if the base does not exist on this machine, or if the adapters have different bases.
    """
    folders = {_find(adapter): None for adapter in adapters}
    if len(folders) > 1 and len({fingerprint(load_model(folder)) for folder in folders}) > 1:
        found = " and ".join(one_line(str(folder)) for folder in folders)
        raise AdapterError(
            f"the adapters were trained on different base models, {found}; choose one with --model, "
            "or in Python with load_model(folder)"
        )
    return next(iter(folders), BASE)


def _find(adapter: str | Path) -> Path:
    name, known = recorded_base(adapter)
    if folder := _model_folder(name):
        return BASE if folder == BASE.resolve() else folder
    if known and known != fingerprint(load_model(BASE)):
        problem = (
            f", {shown(name)}, is not on this machine" if name else " is not recorded, and it is not the packaged base"
        )
        raise AdapterError(f"the base of {adapter}{problem}; specify its folder with --model")
    if name and not known:
        message = f"the base of {adapter}, {shown(name)}, is not on this machine; using the packaged base model"
        warnings.warn(message, stacklevel=3)
    return BASE


def _model_folder(name: str) -> Path | None:
    """Return the full path of a recorded model folder, or None if it is not one. The name is untrusted input."""
    try:
        found = name and not name.startswith(("//", "\\\\")) and (Path(name) / "config.json").is_file()
        return Path(name).resolve() if found else None
    except (OSError, ValueError):  # too long, or with a NUL character
        return None
