"""Training: optimizer, schedule, loop, checkpoints. Start at `step.py`, then `loop.py`."""

from minilora.training.checkpoint import CheckpointError, History
from minilora.training.config import TrainingConfig
from minilora.training.evaluate import evaluate
from minilora.training.loop import Interrupted, TrainingError, train, train_steps
from minilora.training.memory import StepMemory, step_memory
from minilora.training.optimizer import AdamW

__all__ = [
    "AdamW",
    "CheckpointError",
    "History",
    "Interrupted",
    "StepMemory",
    "TrainingConfig",
    "TrainingError",
    "evaluate",
    "step_memory",
    "train",
    "train_steps",
]
