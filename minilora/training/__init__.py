"""Training: optimizers, learning-rate schedules, the training loop, checkpoints and memory.

Reading order: `run.py`, `pieces.py`, `loop.py`.
"""

from minilora.training.checkpoint import CheckpointError, History
from minilora.training.config import TrainingConfig
from minilora.training.evaluate import evaluate
from minilora.training.loop import Interrupted, train, train_steps
from minilora.training.memory import StepMemory, step_memory
from minilora.training.optimizer import SGD, AdamW, Optimizer, ParameterGroup
from minilora.training.run import Run, TrainingError

__all__ = [
    "SGD",
    "AdamW",
    "CheckpointError",
    "History",
    "Interrupted",
    "Optimizer",
    "ParameterGroup",
    "Run",
    "StepMemory",
    "TrainingConfig",
    "TrainingError",
    "evaluate",
    "step_memory",
    "train",
    "train_steps",
]
