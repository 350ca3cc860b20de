"""`minilora mix`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from minilora import lora
from minilora.autograd.tensor import no_grad
from minilora.cli import options
from minilora.nn import Llama
from minilora.runs import check_new_folder


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "mix",
        "mix adapters, each with a strength, into a new adapter",
        "minilora mix --adapter runs/bard:0.7 --adapter runs/recipe:0.3 --how svd --rank 8 --out runs/blend",
    )
    options.add_model(parser)
    options.add_adapters(parser)
    parser.add_argument(
        "--how",
        choices=["cat", "svd", "linear"],
        default="cat",
        help="cat: exact; the new rank is the sum of the ranks (default); svd: the best approximation of rank --rank; "
        "linear: weighted sums of the A's and of the B's, which requires equal ranks",
    )
    parser.add_argument("--rank", type=int, metavar="R", help="rank for svd (default: the largest adapter rank)")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="output folder for the new adapter")
    parser.add_argument(
        "--dtype", choices=["float32", "float16"], default="float32", help="dtype on disk (default: float32)"
    )
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    if not flags.adapter:
        raise ValueError("expected at least one --adapter to mix")
    out = check_new_folder(flags.out)
    model = options.open_model(flags.model, flags.adapter)
    strengths = lora.active(model)
    mixture = lora.mix(model, strengths, "mixed", flags.how, flags.rank)
    lora.save_adapter(model, out, "mixed", dtype=flags.dtype)
    file = out / "adapter_model.safetensors"
    print(mixture)
    print(f"max |Δlogit|, saved mixture vs. the adapters together: {_difference(model, out, strengths):.1e}")
    _, tensors = lora.read_adapter(out)
    print(
        f"adapter saved in {out}: {sum(t.size for t in tensors.values()):,} parameters, {file.stat().st_size:,} bytes"
    )


@no_grad()
def _difference(model: Llama, folder: Path, strengths: dict[str, float]) -> float:
    """Return max |logit of the saved adapter - logit of the adapters at their strengths| on random ids."""
    lora.load_adapter(model, folder, "saved")
    context = min(128, model.config.max_position_embeddings)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (4, context))
    return float(np.max(np.abs(model(ids, adapters="saved").data - model(ids, adapters=strengths).data)))
