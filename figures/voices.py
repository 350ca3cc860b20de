"""The packaged voices, each made from its preset, measured and described. Needs the corpora.

python figures/voices.py make [NAME ...]    train, measure, write the cards; a few minutes each
python figures/voices.py cards              write the cards and the README's part about voices
python figures/voices.py check              measure again; the metrics should come out to three decimals
"""

import contextlib
import hashlib
import io
import json
import platform
import re
import shlex
import shutil
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from unittest import mock

from minilora.assets import VOICES
from minilora.cli import main
from minilora.data import load_corpus, load_ids, split
from minilora.generation import write
from minilora.lora import load_adapter, read_adapter
from minilora.messages import visible
from minilora.nn import Llama
from minilora.runs import CHECKPOINT, RUN, load_settings, open_base, run
from minilora.threads import cores
from minilora.training import evaluate
from minilora.voices import NAMES, attach, voices

README = Path(__file__).parent.parent / "README.md"
MARKS = "<!-- voices: made by figures/voices.py -->", "<!-- end of voices -->"
COMPARE = ["compare"]
HOME = "state_union", "inaugural"  # what the base learned from
SAYS = {  # what it writes, what it learned from, and whose that text is
    "shakespeare": ("speeches in verse, speaker by speaker", "Tiny Shakespeare", "in the public domain"),
    "scripture": ("verses like those of Genesis", "Genesis in the King James Version", "in the public domain"),
    "fairytale": ("fairy tales", "the Brothers Grimm's fairy tales in English", "in the public domain"),
    "python": ("Python source code", "the single-file modules of the standard library", "under the PSF licence"),
    "recipe": ("recipes", "recipes that minilora itself writes, without network", "minilora's own"),
}
LOSSES = "before", "after", "base_off", "base_on"


def make(name: str) -> None:
    """Train a voice and measure it. What was there is replaced at the end."""
    with tempfile.TemporaryDirectory() as folder:
        out, began = Path(folder) / name, time.monotonic()
        run(load_settings(name), out)
        seconds = time.monotonic() - began
        (out / CHECKPOINT).unlink()
        metrics = {"description": SAYS[name][0], **identity(name), **losses(name, out)}
        metrics |= {
            "seconds": round(seconds),
            "machine": f"{cores()} cores, {platform.processor() or platform.machine()}",
        }
        (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        shutil.copytree(out, VOICES / name, dirs_exist_ok=True)


def identity(name: str) -> dict[str, str]:
    """What the voice is measured on: the corpus, and a checksum of its held-out part."""
    (corpus,) = load_settings(name).corpus
    _, held_out = split(load_corpus(corpus))
    found = {"corpus": corpus, "held_out_sha256": hashlib.sha256(held_out.encode()).hexdigest()}
    return {**found, "python": platform.python_version()} if corpus == "python" else found


def losses(name: str, folder: Path) -> dict[str, float]:
    """Nats per character: of its own kind of text and of the base's, without the voice and with it."""
    corpora, voiced = (tuple(load_settings(name).corpus), HOME), open_base()
    load_adapter(voiced, folder)
    values = [loss for corpus in corpora for loss in (base_loss(corpus), held_out_loss(voiced, corpus))]
    return dict(zip(LOSSES, values, strict=True))


@cache
def base_loss(corpus: tuple[str, ...]) -> float:
    return held_out_loss(open_base(), corpus)


def held_out_loss(model: Llama, corpus: tuple[str, ...]) -> float:
    """What `minilora eval` measures."""
    return evaluate(model, load_ids(list(corpus))[1], model.config.max_position_embeddings, 256)


def check() -> None:
    """Measure every voice as it lies there, and compare with its metrics."""
    wrong, skipped = [], []
    for name in NAMES:
        metrics = json.loads((VOICES / name / "metrics.json").read_text())
        found = identity(name)
        if found.get("python") != metrics.get("python"):
            skipped.append(f"{name}, because this Python is {found['python']}, not {metrics['python']}")
            continue
        found |= losses(name, VOICES / name)
        if found["held_out_sha256"] != metrics["held_out_sha256"]:
            wrong.append(f"{name}: the held-out text is another one")
        wrong += [
            f"{name} {key}: {metrics[key]:.4f}, found {found[key]:.4f}"
            for key in LOSSES
            if f"{metrics[key]:.3f}" != f"{found[key]:.3f}"
        ]
    if wrong:
        raise SystemExit("differs from its card:\n" + "\n".join(wrong))
    print(f"{len(NAMES) - len(skipped)} of {len(NAMES)} voices came out to three decimals", *skipped, sep="; not ")


def cards() -> None:
    """Each voice's README.md, from its metrics, its settings and what it writes."""
    model = attach()
    for name in NAMES:
        sample = visible(write(model, "The king ", 350, adapters=name))
        (VOICES / name / "README.md").write_text(card(name, sample), encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    begin, end = (re.escape(mark) for mark in MARKS)
    text = re.sub(f"(?s)({begin}\n).*({end})", lambda found: f"{found[1]}{readme()}\n{found[2]}", text)
    README.write_text(text, encoding="utf-8")


def readme() -> str:
    """The README's part about the voices: their losses, and what `compare` prints."""
    rows = []
    for voice in voices():
        f, card = voice.metrics, f"minilora/assets/voices/{voice.name}/README.md"
        own, base = (f"{f[off]:.3f} → {f[on]:.3f}" for off, on in (LOSSES[:2], LOSSES[2:]))
        rows.append(f"| [`{voice.name}`]({card}) | {f['description']} | {own} | {base} |")
    head = "| voice | writes | loss on its own text | on the base's |\n|---|---|---|---|"
    notes = "Losses are on held-out text, in nats per character, without → with the voice."
    return "\n".join(["```", f"$ minilora {shlex.join(COMPARE)}", compared(), "```", "", head, *rows, "", notes])


def compared() -> str:
    """What `minilora compare` prints on a terminal of 120 characters, from the prompt that the README shows."""
    shown = io.StringIO()
    with mock.patch.dict("os.environ", COLUMNS="120"), contextlib.redirect_stdout(shown):
        main(COMPARE)
    return shown.getvalue().rstrip()


def card(name: str, sample: str) -> str:
    f, rows = json.loads((VOICES / name / "metrics.json").read_text()), facts(name)
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""# The voice `{name}`

A LoRA adapter for minilora's base model. The base writes presidents' addresses; with this voice it writes
{f["description"]}.

| | |
|---|---|
{table}

Losses are those of `minilora eval`: 256 windows of 256 characters. `history.json` has the loss of every step.

## What it writes

`minilora generate --voice {name} --prompt "The king " --tokens 350` (temperature 0.8, seed 0), unedited:

```
The king {sample.rstrip()}
```
"""


def facts(name: str) -> dict[str, str]:
    """The rows of a card."""
    folder = VOICES / name
    f, history = (json.loads((folder / file).read_text()) for file in ("metrics.json", "history.json"))
    config, tensors = read_adapter(folder)
    t = load_settings(folder / RUN).training
    train, held_out = split(load_corpus(f["corpus"]))
    version = f", of Python {f['python']}" if "python" in f else ""
    size, parameters = (folder / "adapter_model.safetensors").stat().st_size, sum(a.size for a in tensors.values())
    head = ", the head too" if "lm_head" in config.target_modules else " but the head"
    measured = f"`minilora eval --voice {name} --corpus"
    return {
        "data": f"`{f['corpus']}`: {SAYS[name][1]}{version}; {len(train):,} characters for training, in ASCII",
        "held out": f"{len(held_out):,} characters never trained on (SHA-256 {f['held_out_sha256'][:16]}…)",
        "adapter": f"r = {config.r}, alpha = {config.lora_alpha:g}, dropout {config.lora_dropout:g}, on every linear "
        f"layer{head}: {parameters:,} parameters, float16, {size:,} bytes; opens in PEFT",
        "command": f"`minilora finetune --preset {name} --out FOLDER` (settings: `run.toml`; seed {t.seed})",
        "length": f"{t.iters:,} steps of {t.batch} windows of {t.context} characters",
        "its own text": f"**{f['before']:.4f} → {f['after']:.4f} nats per character** without → with the voice: "
        f"{measured} {f['corpus']}`, and the same without `--voice`",
        "the base's text": f"{f['base_off']:.4f} → {f['base_on']:.4f}, likewise, on held-out addresses: "
        f"{measured} {' '.join(HOME)}`",
        "curve": ", ".join(f"{loss:.3f} ({step:,})" for step, loss in history["evaluations"])
        + ": held-out loss (after so many steps)",
        "machine, time": f"{f['machine']}: {f['seconds'] / 60:.0f} minutes",
        "licence": f"the weights are under minilora's MIT licence; the text is {SAYS[name][2]}",
    }


if __name__ == "__main__":
    action, *names = sys.argv[1:] or ["check"]
    if action == "make":
        for name in names or NAMES:
            make(name)
    if action in ("make", "cards"):
        cards()
    elif action == "check":
        check()
    else:
        raise SystemExit(__doc__)
