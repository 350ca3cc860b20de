"""Runs: train from settings, and save the result with everything needed to reproduce it. See `runner.py`.

from minilora.runs import load_settings, run
history = run(load_settings("demo", corpus=["pastiche:recipe"], iters=100), "runs/recipe")
"""

from minilora.runs.loading import load_settings, presets
from minilora.runs.runner import (
    CHECKPOINT,
    HISTORY,
    LOG,
    check_new_folder,
    make_model,
    open_base,
    run,
    run_steps,
    save_result,
)
from minilora.runs.settings import RUN, Settings, differences

__all__ = [
    "CHECKPOINT",
    "HISTORY",
    "LOG",
    "RUN",
    "Settings",
    "check_new_folder",
    "differences",
    "load_settings",
    "make_model",
    "open_base",
    "presets",
    "run",
    "run_steps",
    "save_result",
]
