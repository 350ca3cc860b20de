"""The machine of a measurement: its description, its load, and the number of threads in use."""

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
"""The largest load average per core, over the last minute, at which a machine counts as quiet."""


def load() -> float | None:
    """Return the load average over the last minute, or None if the system does not report it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def is_loaded(load: float | None, cores: int) -> bool:
    """Whether the machine is too busy for a meaningful measurement."""
    return load is not None and load > QUIET * cores


def use_threads(threads: int) -> dict[str, int]:
    """Set the number of threads of NumPy's BLAS and of PyTorch; return the numbers that they then report.

    Call this after the libraries are imported, because only loaded libraries can be configured.
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
    """Return what a reader needs to know to assess or reproduce the measurements."""
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
    """Return the CPU model, if the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def text(machine: dict[str, Any]) -> str:
    """Format the description as lines of Markdown."""
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
    """Return the BLAS thread pools. PyTorch's OpenMP pool is not among them; PyTorch reports its own number."""
    return [pool for pool in threadpool_info() if pool["user_api"] == "blas"]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
