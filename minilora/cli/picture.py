"""The plot of the demo: losses on the left, parameter counts on the right. Needs matplotlib."""

from __future__ import annotations

import io
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from minilora.files import write_atomically
from minilora.lora import Report
from minilora.training import History

STYLE = str(resources.files("minilora") / "minilora.mplstyle")


def draw(file: Path, history: History, counts: Report, corpus: str) -> None:
    """Write the plot as a PNG file. Raises ImportError if matplotlib is not installed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(10, 4))
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        _losses(left, history, corpus)
        _parameters(right, counts)
        png = io.BytesIO()
        figure.savefig(png, format="png")
    write_atomically(file, png.getvalue())


def _losses(axes: Any, history: History, corpus: str) -> None:
    steps, values = zip(*history.evaluations, strict=True)
    axes.plot(np.arange(1, len(history.losses) + 1), history.losses, color="0.75", linewidth=1, label="training batch")
    axes.plot(steps, values, marker="o", markersize=4, color="0.1", label="held-out text")
    axes.annotate(f"{values[0]:.2f}", (steps[0], values[0]), xytext=(6, 2), textcoords="offset points")
    axes.annotate(f"{values[-1]:.2f}", (steps[-1], values[-1]), xytext=(-14, 10), textcoords="offset points")
    axes.set(title=f"Training on {corpus} with LoRA", xlabel="training step", ylabel="loss, nats per character")
    axes.legend()


def _parameters(axes: Any, counts: Report) -> None:
    bars = axes.barh(["trained:\nA and B", "frozen:\nthe base"], [counts.trainable, counts.total - counts.trainable])
    for bar, shade in zip(bars, ("#c2571a", "0.6"), strict=True):
        bar.set_color(shade)
    axes.bar_label(bars, labels=[f"{int(bar.get_width()):,}" for bar in bars], padding=4)
    axes.set(title=f"{counts.percent:.1f}% of all parameters are trained", xlabel="parameters")
    axes.set_xlim(right=1.35 * (counts.total - counts.trainable))
    axes.ticklabel_format(axis="x", style="sci", scilimits=(6, 6), useMathText=True)
    axes.grid(visible=False)
