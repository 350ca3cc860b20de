"""`minilora demo`: fine-tune a model trained on presidential addresses to generate Shakespeare, in about a minute."""

from __future__ import annotations

import sys
import textwrap
import time
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minilora import lora
from minilora.assets import BASE
from minilora.backend import Array
from minilora.cli import options
from minilora.cli.columns import Column, side_by_side
from minilora.cli.picture import draw
from minilora.data import CorpusError, load_ids
from minilora.files import write_json
from minilora.generation import write
from minilora.messages import visible
from minilora.nn import Llama
from minilora.runs import Settings, load_settings, open_base
from minilora.training import History, evaluate, train

ADAPTER = "demo"
BASE_CORPORA = ["state_union", "inaugural"]  # the training corpora of the packaged base


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "demo",
        "fine-tune a small model on Shakespeare with LoRA, and show its text before and after",
        "minilora demo --rank 4 --seed 1 --out runs/first",
    )
    parser.add_argument("--quick", action="store_true", help="short run, within 20 seconds")
    parser.add_argument("--iters", type=int, metavar="N", help="training steps (default: about a minute's worth)")
    parser.add_argument("--rank", type=int, metavar="R", help="rank r of the adapter (default: 8)")
    parser.add_argument("--prompt", default="The king ", help='start of each sample (default: "The king ")')
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--out",
        default="minilora-demo",
        metavar="FOLDER",
        help="output folder for the adapter and the plot (default: minilora-demo)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results to a JSON file")
    options.add_device(parser)
    options.add_threads(parser)
    parser.set_defaults(run=run)


@dataclass
class Demo:
    """State shared by the steps of the demo."""

    flags: Namespace
    settings: Settings
    model: Llama
    out: Path
    corpus: str
    train_ids: Array
    val_ids: Array
    base_text: str  # description of the held-out text of the base's own corpora
    base_ids: Array
    before: str = ""
    history: History = field(default_factory=History)

    def write(self, tokens: int) -> str:
        """Return the prompt and its continuation by the model, always with the same seed."""
        return visible(self.flags.prompt + write(self.model, self.flags.prompt, tokens, seed=self.flags.seed))

    def loss(self, ids: Array) -> float:
        c = self.settings.training
        return evaluate(self.model, ids, c.context, c.eval_windows, threads=self.flags.threads)


def run(flags: Namespace) -> None:
    began, results = time.monotonic(), {}
    demo = _prepare(flags)
    for act in (_introduce, _attach, _learn, _compare, _merge, _save):
        results.update(act(demo))
    results["seconds"] = round(time.monotonic() - began, 1)
    if flags.json:
        write_json(flags.json, results)
    out = demo.out
    print(f"\nDone in {results['seconds']:.0f} seconds. Three things to try next:")
    print(f"  minilora compare --voices base,{out / 'adapter'},{out / 'adapter'}:0.5+recipe:0.5")
    print(f"  minilora merge --adapter {out / 'adapter'} --out {out / 'merged'}")
    print(f"  minilora finetune --corpus pastiche:recipe --iters 100 --out {out / 'recipe'}")


def _prepare(flags: Namespace) -> Demo:
    chosen, model, out = _settings(flags), open_base(device=flags.device), Path(flags.out)
    out.mkdir(parents=True, exist_ok=True)  # before loading the corpora, so that an unusable folder is reported first
    corpus, train_ids, val_ids = _style()
    return Demo(flags, chosen, model, out, corpus, train_ids, val_ids, *_base_text(corpus))


def _introduce(demo: Demo) -> dict[str, Any]:
    total = lora.report(demo.model).total
    print(f"The base: a byte-level Llama with {total:,} parameters, trained on US presidents' addresses.")
    demo.before = demo.write(_length(demo))
    _title("A sample from the base")
    print(textwrap.indent(demo.before, "    "))
    return {"corpus": demo.corpus, "base_parameters": total}


def _attach(demo: Demo) -> dict[str, Any]:
    config = demo.settings.adapter
    assert isinstance(config, lora.LoraConfig)
    _title(f"Attach LoRA: r = {config.r}, alpha = {config.lora_alpha:g}, on every linear layer except the head")
    lora.inject(demo.model, config, adapter=ADAPTER, rng=np.random.default_rng(demo.flags.seed))
    counts = lora.report(demo.model)
    print(counts)
    return {"trainable_parameters": counts.trainable}


def _learn(demo: Demo) -> dict[str, Any]:
    trainable = lora.report(demo.model).trainable
    _title(f"Train the {trainable:,} new parameters on {demo.corpus}; the base stays frozen")
    demo.history = train(
        demo.model,
        demo.train_ids,
        demo.val_ids,
        demo.settings.training,
        sample=lambda: demo.write(60),
        threads=demo.flags.threads,
    )
    losses = [loss for _, loss in demo.history.evaluations]
    return {"val_loss_before": losses[0], "val_loss_after": losses[-1]}


def _compare(demo: Demo) -> dict[str, Any]:
    _title("Same prompt, same seed: before and after")
    pair = {"before": demo.before, "after": demo.write(_length(demo))}
    print(side_by_side([Column(title, [(text, 0.0)]) for title, text in pair.items()]))
    on = demo.loss(demo.base_ids)
    with lora.disabled(demo.model):
        off = demo.loss(demo.base_ids)
    before, after = (demo.history.evaluations[i][1] for i in (0, -1))
    print(f"\nvalidation loss on {demo.corpus}: {before:.3f} before, {after:.3f} after (nats per character)")
    print(f"validation loss on {demo.base_text}: {off:.3f} with the adapter off, {on:.3f} with it on")
    return {"base_val_loss_adapter_on": on, "base_val_loss_adapter_off": off}


def _merge(demo: Demo) -> dict[str, Any]:
    _title("Merge: W + s·BA is one matrix with the shape of W")
    context = demo.settings.training.context
    ids = demo.val_ids[: 4 * context].reshape(4, context)
    check = lora.merge_check(demo.model, ids)
    print(f"max |Δlogit|, merged vs. attached: {check.single:.1e} in float32, {check.double:.1e} in float64")
    print(f"after unmerging, the weights are {'' if check.restored else 'NOT '}bit-for-bit identical to the originals")
    return {
        "merge_max_abs_logit_diff": check.single,
        "merge_max_abs_logit_diff_float64": check.double,
        "unmerge_bit_exact": check.restored,
    }


def _save(demo: Demo) -> dict[str, Any]:
    _title("Save the adapter")
    folder = demo.out / "adapter"
    lora.save_adapter(demo.model, folder, ADAPTER, dtype="float16")
    adapter_bytes = (folder / "adapter_model.safetensors").stat().st_size
    base_bytes = (BASE / "model.safetensors").stat().st_size
    print(f"the adapter: {adapter_bytes:,} bytes in {folder}; the base: {base_bytes:,} bytes (both float16)")
    try:
        draw(demo.out / "demo.png", demo.history, lora.report(demo.model), demo.corpus)
    except ImportError:
        print(f"no plot: matplotlib is not installed ({sys.executable} -m pip install matplotlib)")
    else:
        print(f"plot of the losses and the parameter counts: {demo.out / 'demo.png'}")
    return {"adapter_bytes": adapter_bytes, "base_bytes": base_bytes}


def _length(demo: Demo) -> int:
    """Return the length of the samples, in tokens (bytes)."""
    return 240 if demo.flags.quick else 400


def _settings(flags: Namespace) -> Settings:
    iters = 30 if flags.quick and flags.iters is None else flags.iters
    given = {"iters": iters, "rank": flags.rank, "seed": flags.seed}
    changes = {name: value for name, value in given.items() if value is not None}
    if flags.quick:
        changes |= {"warmup": 5, "eval_every": iters, "eval_windows": 32}
    return load_settings("demo", **changes)


def _style() -> tuple[str, Array, Array]:
    """Load the text to train on: Tiny Shakespeare or, if that is unavailable, verse generated by minilora.

    Returns the name of the corpus, the training ids and the validation ids.
    """
    corpus = "tinyshakespeare"
    try:
        return corpus, *load_ids([corpus])
    except CorpusError:
        print(
            "Tiny Shakespeare is missing and could not be downloaded; training on verse generated by minilora instead."
        )
        return "pastiche:verse", *load_ids(["pastiche:verse"])


def _base_text(style: str) -> tuple[str, Array]:
    """Load held-out text of the base's own corpora, to measure forgetting; return its description and its ids."""
    try:
        return "held-out text of the base's own corpora", load_ids(
            BASE_CORPORA, download=not style.startswith("pastiche")
        )[1]
    except CorpusError:
        print("The presidents' addresses are missing; forgetting is measured on prose generated by minilora instead.")
        return "prose generated by minilora", load_ids(["pastiche:prose"])[1]


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)
