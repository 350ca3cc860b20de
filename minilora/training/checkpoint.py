"""Checkpoints: one file with everything needed to resume a run exactly.

A safetensors file holds the trainable parameters, the state of the optimizer and of the adapters' hooks, and the losses
so far. Its metadata holds, as JSON, the step, the state of the random generator (which also determines the
batches that follow) and the run's settings. The file is replaced by an atomic rename, so a run that is killed at any
time leaves a complete checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minilora.adapters.attach import hosts
from minilora.adapters.hook import Hook
from minilora.backend import Array, copy_into, to_host
from minilora.files import read_metadata, read_tensors, write_tensors
from minilora.nn import Llama
from minilora.training.config import CHANGEABLE_LATER, TrainingConfig
from minilora.training.optimizer import Optimizer

CHECKSUMS = {
    "data": "training text is",
    "validation data": "validation text is",
    "frozen parameters": "weights of the base model are",
}
BEST = "best."  # prefix of the names of the best result's arrays


class CheckpointError(ValueError):
    """Raised when a checkpoint is missing, corrupted or from a different run, or when a new run would overwrite it."""


@dataclass
class History:
    """Losses in nats per token: one per training step, and a pair (steps done, loss) per evaluation."""

    losses: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)

    @property
    def val_loss(self) -> float:
        """The latest validation loss."""
        return self.evaluations[-1][1]

    @property
    def best(self) -> tuple[int, float]:
        """The number of steps and the loss of the evaluation with the lowest validation loss."""
        return min(self.evaluations, key=lambda pair: pair[1])

    def __repr__(self) -> str:
        parts = [f"{len(self.losses)} steps"]
        if self.losses:
            parts.append(f"last training loss {self.losses[-1]:.3f}")
        if self.evaluations:
            (_, first), (_, last) = self.evaluations[0], self.evaluations[-1]
            parts.append(f"validation loss {first:.3f} → {last:.3f}")
        return f"History({', '.join(parts)})"


def save(
    path: Path,
    optimizer: Optimizer,
    rng: np.random.Generator,
    history: History,
    settings: Mapping[str, Any],
    hooks: Mapping[str, Hook] | None = None,
    best: Mapping[str, Array] | None = None,
) -> None:
    """Save the state after `optimizer.steps` steps, and the arrays of the best result so far."""
    arrays = {**_arrays(optimizer, hooks), **{BEST + name: array for name, array in (best or {}).items()}}
    tensors = {
        **{name: to_host(array) for name, array in arrays.items()},
        "losses": np.array(history.losses, dtype=np.float64),
        "evaluations": np.array(history.evaluations, dtype=np.float64).reshape(-1, 2),
    }
    state = {
        "step": optimizer.steps,
        "updates": optimizer.updates,
        "generator": rng.bit_generator.state,
        "layout": [[name, list(shape)] for name, shape in optimizer.layout],
        "settings": settings,
    }
    write_tensors(path, tensors, {"minilora_checkpoint": json.dumps(state)})


def load(
    path: Path,
    optimizer: Optimizer,
    rng: np.random.Generator,
    history: History,
    settings: Mapping[str, Any],
    hooks: Mapping[str, Hook] | None = None,
) -> dict[str, Array]:
    """Copy the saved state into `optimizer`, `rng`, `history` and the arrays of `hooks`, in place.

    Returns the arrays of the best result so far. Raises CheckpointError, before anything is changed, if the file is
    missing or corrupted, or belongs to a run with different data, parameters or settings, except those in
    CHANGEABLE_LATER.
    """
    try:
        tensors, state = read_tensors(path), _read_state(path)
    except ValueError as error:
        raise CheckpointError(f"cannot resume: {error}") from None
    arrays = _arrays(optimizer, hooks)
    layout = [[name, list(shape)] for name, shape in optimizer.layout]
    if state["layout"] != layout:
        raise CheckpointError(f"cannot resume: the trainable parameters in {path} differ from those of this run")
    saved = {**dataclasses.asdict(TrainingConfig()), **state["settings"]}  # defaults for settings newer than the file
    for name, value in json.loads(json.dumps(settings)).items():
        if saved.get(name) != value and name in CHECKSUMS:
            raise CheckpointError(f"cannot resume: the {CHECKSUMS[name]} not the same as when {path} was saved")
        if saved.get(name) != value and name not in CHANGEABLE_LATER:
            raise CheckpointError(
                f"cannot resume: {path} was saved with {name} = {saved.get(name)!r}, but this run has {value!r}"
            )
    for name, array in arrays.items():
        if name not in tensors or tensors[name].shape != array.shape:
            raise CheckpointError(f"cannot resume: {path} lacks the tensor `{name}` of shape {array.shape}")
    for name, array in arrays.items():
        copy_into(array, tensors[name])
    optimizer.steps = state["step"]
    optimizer.updates = state.get("updates", [optimizer.steps] * len(optimizer.updates))
    rng.bit_generator.state = state["generator"]
    history.losses[:] = tensors["losses"].tolist()
    history.evaluations[:] = [(int(step), float(loss)) for step, loss in tensors["evaluations"]]
    return {name.removeprefix(BEST): array for name, array in tensors.items() if name.startswith(BEST)}


def saved_steps(path: Path) -> int:
    """Return the number of steps done when a checkpoint was saved. Raises CheckpointError if it is not valid."""
    return int(_read_state(path)["step"])


def _read_state(path: Path) -> dict[str, Any]:
    """Return the metadata of a checkpoint: everything except the tensors."""
    try:
        text = read_metadata(path).get("minilora_checkpoint")
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if text is None:
        raise CheckpointError(f"{path} is not a minilora checkpoint")
    state: dict[str, Any] = json.loads(text)
    return state


def _arrays(optimizer: Optimizer, hooks: Mapping[str, Hook] | None) -> dict[str, Array]:
    """The arrays that change during a run, keyed by their names in the file."""
    return {**result(optimizer, hooks), **optimizer.state}


def result(optimizer: Optimizer, hooks: Mapping[str, Hook] | None) -> dict[str, Array]:
    """Return the arrays that make up the result of a run: the trained parameters, and the arrays that hooks change."""
    own = {f"hook.{adapter}.{name}": a for adapter, hook in (hooks or {}).items() for name, a in hook.state.items()}
    return {"parameters": optimizer.data, **own}


def fingerprints(model: Llama, train_ids: Array | None, val_ids: Array | None) -> dict[str, Any]:
    """The values that a resumed run must match: checksums of texts and frozen parameters, and adapter settings."""
    found: dict[str, Any] = {
        "data": _digest([train_ids]),
        "validation data": _digest([val_ids]),
        "frozen parameters": _digest([p.data for p in model.parameters() if not p.requires_grad]),
    }
    for host in hosts(model).values():
        for adapter, strength in host.active.items():
            for name, value in dataclasses.asdict(host.config[adapter]).items():
                found[f"{adapter}.{name}"] = value
            found[f"{adapter}.strength"] = strength
    return found


def _digest(arrays: Sequence[Array | None]) -> str:
    """SHA-256 of the arrays' bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is not None:
            digest.update(np.ascontiguousarray(to_host(array)).tobytes())
    return digest.hexdigest()
