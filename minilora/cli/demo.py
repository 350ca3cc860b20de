"""`minilora demo`: a model that writes like a president learns to write like Shakespeare, in about a minute."""

from __future__ import annotations

import copy
import shutil
import textwrap
import time
from argparse import Namespace
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from minilora import lora
from minilora.autograd.tensor import Array
from minilora.cli import options
from minilora.cli.picture import draw
from minilora.cli.settings import Settings, settings
from minilora.cli.train import load_texts
from minilora.data.sources import CorpusError
from minilora.data.tokenizer import visible
from minilora.files import write_json
from minilora.generation import write
from minilora.nn import Llama
from minilora.training import History, evaluate, train

ADAPTER = "demo"
HOME = ["state_union", "inaugural"]  # what the packaged base learned from


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "demo",
        "watch a small model learn to write like Shakespeare, with LoRA",
        "minilora demo --rank 4 --seed 1 --out runs/first",
    )
    parser.add_argument("--quick", action="store_true", help="a short run, within 20 seconds")
    parser.add_argument("--iters", type=int, metavar="N", help="training steps (default: about a minute's worth)")
    parser.add_argument("--rank", type=int, metavar="R", help="LoRA's r (default: 8)")
    parser.add_argument("--prompt", default="The king ", help='what the samples begin with (default: "The king ")')
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--out", default="minilora-demo", metavar="FOLDER", help="for the adapter and the picture")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to a file")
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    began, out = time.monotonic(), Path(flags.out)
    out.mkdir(parents=True, exist_ok=True)
    chosen = _settings(flags)
    model = options.open_model(None)
    base_parameters = lora.report(model).total
    print(f"The base: a Llama of {base_parameters:,} parameters that read US presidents' addresses, byte by byte.")
    corpus, train_ids, val_ids = _style()
    home, home_ids = _home(corpus)
    context, windows = chosen.training.context, chosen.training.eval_windows

    def sample() -> str:
        return write(model, flags.prompt, 240 if flags.quick else 400, seed=flags.seed)

    before_text, before_loss = sample(), evaluate(model, val_ids, context, windows)
    home_off = evaluate(model, home_ids, context, windows)
    _title("It writes")
    print(textwrap.indent(visible(flags.prompt + before_text), "    "))

    _title(f"Attach LoRA: r = {chosen.lora.r}, alpha = {chosen.lora.lora_alpha:g}, on every linear layer")
    lora.inject(model, chosen.lora, adapter=ADAPTER, rng=np.random.default_rng(flags.seed))
    counts = lora.report(model)
    print(counts)

    _title(f"Train the {counts.trainable:,} new numbers on {corpus}; the base stays frozen")
    history = train(model, train_ids, val_ids, chosen.training, sample=lambda: _glimpse(model, flags))
    after_loss, home_on = (evaluate(model, ids, context, windows) for ids in (val_ids, home_ids))

    _title("Same prompt, same dice: before and after")
    print(_side_by_side(visible(flags.prompt + before_text), visible(flags.prompt + sample())))
    print(f"\nvalidation loss on {corpus}: {before_loss:.3f} before, {after_loss:.3f} after (nats per character)")
    print(f"validation loss on {home}: {home_off:.3f} with the adapter off, {home_on:.3f} with it on")

    _title("Merge: W + s·BA is one matrix like W")
    single, double, exact = _merge_check(model, val_ids, context)
    print(f"max |Δlogit|, merged against attached: {single:.1e} in float32, {double:.1e} in float64")
    print(f"unmerged, every weight is {'bit for bit what it was' if exact else 'NOT what it was'}")

    _title("Save")
    lora.save_adapter(model, out / "adapter", ADAPTER, base="minilora/assets/base")
    adapter_bytes, base_bytes = (
        file.stat().st_size
        for file in (out / "adapter" / "adapter_model.safetensors", options.BASE / "model.safetensors")
    )
    print(f"the adapter: {adapter_bytes:,} bytes in {out / 'adapter'}; the base: {base_bytes:,} bytes")
    _picture(out / "demo.png", history, counts, corpus)
    seconds = time.monotonic() - began
    if flags.json:
        figures = {
            "corpus": corpus,
            "base_parameters": base_parameters,
            "trainable_parameters": counts.trainable,
            "val_loss_before": before_loss,
            "val_loss_after": after_loss,
            "base_val_loss_adapter_on": home_on,
            "base_val_loss_adapter_off": home_off,
            "merge_max_abs_logit_diff": single,
            "merge_max_abs_logit_diff_float64": double,
            "unmerge_bit_exact": exact,
            "adapter_bytes": adapter_bytes,
            "base_bytes": base_bytes,
            "seconds": round(seconds, 1),
        }
        write_json(flags.json, figures)
    print(f"\n{seconds:.0f} seconds. Three things to try next:")
    print(f'  minilora generate --adapter {out / "adapter"}:0.5 --prompt "{flags.prompt}"')
    print(f"  minilora merge --adapter {out / 'adapter'} --out {out / 'merged'}")
    print(f"  minilora finetune --corpus pastiche:recipe --iters 100 --out {out / 'recipe'}")


def _settings(flags: Namespace) -> Settings:
    chosen = settings("demo", flags)
    if flags.quick:
        iters = flags.iters or 40
        training = replace(chosen.training, iters=iters, warmup=5, eval_every=iters, eval_windows=32)
        chosen = replace(chosen, training=training)
    return chosen


def _style() -> tuple[str, Array, Array]:
    """What to learn from: Tiny Shakespeare, or without it the verse that minilora writes itself."""
    corpus = "tinyshakespeare"
    try:
        return corpus, *load_texts([corpus])
    except CorpusError:
        print("Tiny Shakespeare is not here and could not be downloaded: learning from minilora's own pastiche of it.")
        return "pastiche:verse", *load_texts(["pastiche:verse"])


def _home(style: str) -> tuple[str, Array]:
    """Held-out text of the kind that the base knows, to measure what it forgets."""
    try:
        return "the base's own held-out addresses", load_texts(HOME, download=not style.startswith("pastiche"))[1]
    except CorpusError:
        print("The presidents' addresses are not here: what the base forgets is measured on pastiche's plain prose.")
        return "plain prose (pastiche)", load_texts(["pastiche:prose"])[1]


def _glimpse(model: Llama, flags: Namespace) -> str:
    """A few words of what the model writes now."""
    return flags.prompt + write(model, flags.prompt, 60, seed=flags.seed)


def _merge_check(model: Llama, val_ids: Array, context: int) -> tuple[float, float, bool]:
    """The largest difference that merging makes to a logit, in two precisions; and whether unmerging undoes it."""
    ids = val_ids[: 4 * context].reshape(4, context)
    single, double = (lora.merge_difference(model, ids, dtype) for dtype in (np.float32, np.float64))
    before = copy.deepcopy(model.state_dict())
    lora.merge(model)
    lora.unmerge(model)
    exact = all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())
    return single, double, exact


def _picture(file: Path, history: History, counts: lora.Report, corpus: str) -> None:
    try:
        draw(file, history, counts, corpus)
    except ImportError:
        print("no picture: matplotlib is not installed (pip install matplotlib)")
    else:
        print(f"a picture of the losses and the parameters: {file}")


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def _side_by_side(left: str, right: str) -> str:
    """Two texts in columns as wide as the terminal allows, their line breaks kept."""
    width = (min(shutil.get_terminal_size().columns, 120) - 3) // 2
    columns = [
        [line for row in text.splitlines() for line in textwrap.wrap(row, width) or [""]] for text in (left, right)
    ]
    return "\n".join(f"{a:{width}} | {b}".rstrip() for a, b in zip_longest(*columns, fillvalue=""))
