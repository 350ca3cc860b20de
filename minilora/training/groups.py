"""Parameter groups: the weight decay and learning-rate multiplier of each trainable parameter."""

from __future__ import annotations

from minilora.adapters.attach import hosts
from minilora.nn import Module
from minilora.training.config import TrainingConfig
from minilora.training.optimizer import Optimizer, ParameterGroup, optimizers


def make_optimizer(model: Module, config: TrainingConfig) -> Optimizer:
    """Create the optimizer named in `config` for the parameters of `model` with requires_grad=True."""
    return optimizers()[config.optimizer](
        parameter_groups(model, config.weight_decay), betas=(config.beta1, config.beta2)
    )


def parameter_groups(model: Module, weight_decay: float) -> list[ParameterGroup]:
    """Group the trainable parameters; groups with weight decay come first.

    Weight decay applies to matrices but not to vectors, which are gains. An adapter's update may define its own rules
    for its tensors (`Update.decays`, `Update.lr_scale`).
    """
    rules = {
        id(tensor): (update.decays(name), update.lr_scale(name))
        for host in hosts(model).values()
        for update in host.updates.values()
        for name, tensor in update.tensors.items()
    }
    groups: dict[tuple[bool, float], ParameterGroup] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            decays, lr_scale = rule = rules.get(id(p), (p.ndim >= 2, 1.0))
            group = groups.setdefault(rule, ParameterGroup([], weight_decay if decays else 0.0, lr_scale))
            group.parameters.append((name, p))
    return [groups[rule] for rule in sorted(groups, key=lambda rule: not rule[0])]  # a stable order
