"""The machine that a measurement was made on: what it is, whether it is busy, and how many threads are used."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info, threadpool_limits

from minilora.threads import cores

PACKAGES = "minilora", "numpy", "torch", "transformers", "peft", "autograd"
QUIET = 0.25
"""Programs waiting for each core, on average over the last minute, below which a machine is quiet."""


def load() -> float | None:
    """How many programs wanted a core, on average over the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def is_loaded(load: float | None, cores: int) -> bool:
    """Whether others use the machine so much that a time measured now says little."""
    return load is not None and load > QUIET * cores


def use_threads(threads: int) -> dict[str, int]:
    """Give NumPy's BLAS and PyTorch that many threads each; return what each of them then says that it has.

    To be called after the libraries are imported: only what is loaded can be set.
    """
    threadpool_limits(threads)
    found = {pool["internal_api"]: pool["num_threads"] for pool in _pools()}
    try:
        import torch
    except ImportError:
        return found
    torch.set_num_threads(threads)
    return {**found, "torch": torch.get_num_threads()}


def describe(threads: dict[str, int]) -> dict[str, Any]:
    """What a reader needs to know to judge, or repeat, the figures."""
    return {
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": load(),
        "threads": threads,
        "blas": sorted({f"{p['internal_api']} {p['version']} {p.get('architecture', '')}".strip() for p in _pools()}),
        "versions": {"python": platform.python_version(), **{p: v for p in PACKAGES if (v := _version(p))}},
    }


def processor() -> str:
    """The processor's model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def text(machine: dict[str, Any]) -> str:
    """The description as lines of Markdown."""
    busy = "unknown" if machine["load"] is None else f"{machine['load']:.2f}"
    threads = ", ".join(f"{name} {n}" for name, n in machine["threads"].items())
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return "\n".join(
        [
            f"- {machine['processor']}, {machine['cores']} cores, {machine['system']}; load before: {busy}",
            f"- threads: {threads}",
            f"- {versions}; BLAS: {', '.join(machine['blas'])}",
        ]
    )


def _pools() -> list[dict[str, Any]]:
    """NumPy's BLAS and its like; the OpenMP pool of PyTorch is shown as PyTorch's own number."""
    return [pool for pool in threadpool_info() if pool["user_api"] == "blas"]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
