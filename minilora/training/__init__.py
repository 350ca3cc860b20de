"""Training: optimizer, schedule, loop, checkpoints. Start at `loop.py`."""

from minilora.training.checkpoint import CheckpointError, History
from minilora.training.evaluate import evaluate
from minilora.training.loop import Interrupted, TrainingConfig, TrainingError, train
from minilora.training.optimizer import AdamW

__all__ = [
    "AdamW",
    "CheckpointError",
    "History",
    "Interrupted",
    "TrainingConfig",
    "TrainingError",
    "evaluate",
    "train",
]
