"""Two small methods with training hooks like those of ReLoRA and AdaLoRA, to test the hook interface."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minilora.adapters.attach import hosts
from minilora.adapters.hook import Hook
from minilora.adapters.method import method
from minilora.adapters.settings import check_rank, setting
from minilora.lora import LoraConfig
from minilora.lora.lora import draw_A


class Restart(Hook):
    """Every few steps, merge the update into the frozen weight, draw a new A, and reset B to zero."""

    def __init__(self, layers, adapter, every):
        self.layers, self.adapter, self.every = layers, adapter, every

    def after_update(self, run):
        if run.steps % self.every:
            return
        rng = np.random.default_rng([run.config.seed, run.steps])
        for layer in self.layers.values():
            update = layer.updates[self.adapter]
            layer.base.weight.data += layer.delta(self.adapter)
            update.lora_A.data[...] = draw_A(*update.lora_A.shape, True, rng)
            update.lora_B.data[...] = 0
            for tensor in update.tensors.values():
                run.forget(tensor)

    @property
    def state(self):
        return {f"{path}.weight": layer.base.weight.data for path, layer in self.layers.items()}


class Prune(Hook):
    """Keep the rows of A orthogonal with a penalty, score each rank by |p · gradient|, and prune the lowest."""

    def __init__(self, updates, weight, steps):
        self.updates, self.weight, self.steps = updates, weight, steps
        ranks = [update.lora_A.shape[0] for update in updates.values()]
        self.scores = {path: np.zeros(r) for path, r in zip(updates, ranks, strict=True)}
        self.kept = {path: np.ones(r) for path, r in zip(updates, ranks, strict=True)}

    def penalty(self):
        total = 0.0
        for update in self.updates.values():
            gram = update.lora_A @ update.lora_A.T - np.eye(update.lora_A.shape[0], dtype=update.lora_A.dtype)
            total = (gram * gram).sum() + total
        return total * self.weight

    def before_update(self, run):
        for path, update in self.updates.items():
            p = update.lora_B
            self.scores[path] *= 0.85
            self.scores[path] += 0.15 * np.abs(p.data * p.grad).mean(axis=0)

    def after_update(self, run):
        for path, update in self.updates.items():
            if run.steps == self.steps:
                self.kept[path][self.scores[path].argmin()] = 0
            update.lora_B.data *= self.kept[path].astype(update.lora_B.dtype)

    @property
    def state(self):
        scores = {f"{path}.scores": array for path, array in self.scores.items()}
        return {**scores, **{f"{path}.kept": array for path, array in self.kept.items()}}


@dataclass(frozen=True)
class RestartConfig(LoraConfig):
    every: int = setting(2, check_rank)
    name: ClassVar = "restart"
    label: ClassVar = "restarted LoRA"
    recognized_by: ClassVar = {"peft_type": "RESTART"}

    def hook(self, model, adapter):
        return Restart(hosts(model, adapter), adapter, self.every)


@dataclass(frozen=True)
class PruneConfig(LoraConfig):
    cut_at: int = setting(3, check_rank)
    name: ClassVar = "prune"
    label: ClassVar = "pruned LoRA"
    recognized_by: ClassVar = {"peft_type": "PRUNE"}

    def hook(self, model, adapter):
        updates = {path: host.updates[adapter] for path, host in hosts(model, adapter).items()}
        return Prune(updates, 0.1, self.cut_at)


def register():
    for config in (RestartConfig, PruneConfig):
        method(config)
