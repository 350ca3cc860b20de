"""The loss curve on the base model's card. `python figures/base_loss.py` draws it to `figures/base_loss.png`."""

import json
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent


def base_loss() -> None:
    """Plot the training and held-out losses of the packaged base model, from its history.json."""
    history = json.loads((ROOT / "minilora" / "assets" / "base" / "history.json").read_text())
    steps, values = zip(*history["evaluations"], strict=True)
    losses = history["losses"]
    figure, axes = plt.subplots(figsize=(8, 4))
    means = [sum(losses[i : i + 50]) / 50 for i in range(0, len(losses) - 49, 50)]
    axes.plot([50 * i + 25 for i in range(len(means))], means, color="0.65", label="training text, mean of 50 steps")
    axes.plot(steps[1:], values[1:], marker="o", markersize=4, color="0.1", label="held-out addresses")
    axes.annotate(f"{values[-1]:.3f}", (steps[-1], values[-1]), xytext=(-16, 10), textcoords="offset points")
    axes.set(title="The base model learns to write addresses", xlabel="training step (4,096 characters each)")
    axes.set(ylabel="loss, nats per character", ylim=(0.9, 2.5))
    axes.legend()
    figure.savefig(ROOT / "figures" / "base_loss.png")


if __name__ == "__main__":
    plt.style.use("minilora.minilora")
    base_loss()
