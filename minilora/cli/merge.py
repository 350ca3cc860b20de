"""`minilora merge`."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np

from minilora import lora
from minilora.cli import options
from minilora.data.tokenizer import ByteTokenizer
from minilora.runs import check_new_folder


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "merge",
        "merge adapters into the weights of a model and save it as a plain model",
        "minilora merge --adapter runs/bard --out runs/bard-merged",
    )
    options.add_model(parser)
    options.add_adapters(parser)
    parser.add_argument("--out", metavar="FOLDER", required=True, help="output folder for the merged model")
    parser.add_argument(
        "--dtype", choices=["float32", "float16"], default="float32", help="dtype on disk (default: float32)"
    )
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    if not flags.adapter:
        raise ValueError("expected at least one --adapter to merge")
    out = check_new_folder(flags.out)
    model = options.open_model(flags.model, flags.adapter)
    context = min(128, model.config.max_position_embeddings)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (4, context))
    check, tied = lora.merge_check(model, ids), model.tied
    lora.merge_and_unload(model)
    model.save_pretrained(out, flags.dtype)
    ByteTokenizer().save(out)
    print(f"max |Δlogit|, merged vs. attached: {check.single:.1e} in float32, {check.double:.1e} in float64")
    head = " plus lm_head.weight, which is no longer tied to the embedding" if tied and not model.tied else ""
    print(f"merged model saved in {out}: {len(model.parameters())} tensors, with the same names as the base{head}")
