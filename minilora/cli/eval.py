"""`minilora eval`."""

from __future__ import annotations

import math
from argparse import Namespace
from typing import Any

from minilora.cli import options
from minilora.data import load_ids
from minilora.files import write_json
from minilora.training import evaluate


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "eval",
        "measure a model's loss on the held-out part of a corpus",
        "minilora eval --adapter runs/bard --corpus tinyshakespeare",
    )
    options.add_model(parser)
    options.add_adapters(parser)
    options.add_device(parser)
    options.add_threads(parser)
    options.add_corpus(parser)
    parser.add_argument("--context", type=int, metavar="N", help="tokens per window (default: the model's context)")
    parser.add_argument("--windows", type=int, default=256, metavar="N", help="number of windows (default: 256)")
    parser.add_argument("--json", metavar="FILE", help="also write the results to a JSON file")
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    model = options.open_model(flags.model, flags.adapter, flags.device)
    _, val_ids = load_ids(flags.corpus, ascii=flags.ascii, encoding=flags.encoding)
    context = model.config.max_position_embeddings if flags.context is None else flags.context
    loss = evaluate(model, val_ids, context, flags.windows, threads=flags.threads)
    print(
        f"held-out loss on {' and '.join(flags.corpus)}: {loss:.4f} nats per byte "
        f"({loss / math.log(2):.4f} bits), {flags.windows} windows of {context} tokens"
    )
    if flags.json:
        results = {"corpus": flags.corpus, "loss": loss, "windows": flags.windows, "context": context}
        write_json(flags.json, results)
