"""Public objects have a repr of a few lines, and some are shown as a table in a notebook."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import minilora as ml
from minilora import laws, lora, runs
from minilora.data import ByteTokenizer, Corpus, load_ids
from minilora.generation import Decoding, Request, Sampler
from minilora.laws.kit.law import Law
from minilora.training import History, Run, TrainingConfig, step_memory
from minilora.voices import voices

LONGEST = 700  # characters: a settings object with all its fields


def broken(case):
    """Check that a random number equals 3, which fails."""
    case.equal("<b>", case.size("<i>n</i>", 1, 9), 3)


@pytest.fixture(scope="module")
def objects():
    """One object of each public class, by name."""
    model = ml.load_model()
    lora.inject(model, r=8, target_modules="all-linear", adapter="bard")
    ids, val = load_ids("pastiche:verse:20000")
    run = Run(model, ids, val, TrainingConfig(iters=2, batch=2, context=32))
    lora.inject(model, r=4, init_lora_weights=False, adapter="other", target_modules="all-linear")
    request = Request(ByteTokenizer().encode("The king "), 3)
    decoding = Decoding(model)
    decoding.add(request)
    q_proj = model.model.layers[0].self_attn.q_proj
    law = Law("three", "model", "Every number is 3.", "<b>n</b> = 3", "a test", {"float64": 0.0}, (), broken)
    compared = ml.compare("The king ", ["base", "shakespeare"], tokens=20)
    return {
        "Llama": model,
        "Decoder": model.model,
        "Linear": q_proj.base,
        "AdaptedLinear": q_proj,
        "Update": q_proj.updates["bard"],
        "Embedding": model.model.embed_tokens,
        "RMSNorm": model.model.norm,
        "Cache": model.new_cache(2),
        "Tensor": model.lm_head.weight,
        "LlamaConfig": model.config,
        "LoraConfig": lora.LoraConfig(),
        "Settings": runs.load_settings("demo"),
        "MergeCheck": lora.merge_check(model, ids[None, :20]),
        "Mixture": lora.mix(model, {"bard": 0.5, "other": 0.5}, "mixed", "svd", r=4),
        "Report": lora.report(model),
        "LoraLinear": lora.LoraLinear(np.eye(3), r=1),
        "Run": run,
        "AdamW": run.optimizer,
        "ParameterGroup": run.optimizer.groups[0],
        "History": History([1.5] * 1000, [(0, 2.5), (1000, 1.25)]),
        "StepMemory": step_memory(model, (ids[None, :32], ids[None, 1:33])),
        "Request": request,
        "Decoding": decoding,
        "Token": decoding.step()[0],
        "Sampler": Sampler(),
        "ByteTokenizer": ByteTokenizer(),
        "Corpus": Corpus("mine", ("text " * 10_000, "more")),
        "Voice": voices()[0],
        "Law": laws.catalogue("lora")[0],
        "Verdict": laws.run(law, cases=20),
        "compare": compared,
        "ComparedText": compared[1],
        "ComparedToken": compared[1].tokens[0],
    }


NAMES = [
    "Llama",
    "Decoder",
    "Linear",
    "AdaptedLinear",
    "Update",
    "Embedding",
    "RMSNorm",
    "Cache",
    "Tensor",
    "LlamaConfig",
    "LoraConfig",
    "Settings",
    "MergeCheck",
    "Mixture",
    "Report",
    "LoraLinear",
    "Run",
    "AdamW",
    "ParameterGroup",
    "History",
    "StepMemory",
    "Request",
    "Decoding",
    "Token",
    "Sampler",
    "ByteTokenizer",
    "Corpus",
    "Voice",
    "Law",
    "Verdict",
    "compare",
    "ComparedText",
    "ComparedToken",
]


def test_all_objects_are_named(objects):
    assert list(objects) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_repr_is_short_and_says_what_it_is(name, objects):
    text = repr(objects[name])
    assert len(text) < LONGEST
    assert not re.search(r"object at 0x|<function|<bound method", text)
    kinds = {"Update": "LoraUpdate", "compare": "Comparison"}
    assert text.startswith(kinds.get(name, name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "Llama",
            "Llama: 3,056,064 parameters, 87,552 trainable; float32 on cpu\n"
            "  6 layers, hidden size 192, MLP 512, 6 heads, context 256, vocabulary 256\n"
            "  adapters: bard, other, mixed (active, strength 1)",
        ),
        ("History", "History(1000 steps, last training loss 1.500, validation loss 2.500 → 1.250)"),
        ("Linear", "Linear(in_features=192, out_features=192)"),
        ("LoraLinear", "LoraLinear(Linear(in_features=3, out_features=3), {'default': LoRA}, active={'default': 1.0})"),
        ("Corpus", "Corpus('mine', documents=2, characters=50,004)"),
        ("Run", "Run(step 0 of 2, AdamW on 175,104 parameters)"),
        (
            "Request",
            "Request(9 prompt tokens, 3 new tokens, sampler=Sampler(temperature=0.8, top_k=None, top_p=None), seed=0)",
        ),
    ],
)
def test_what_a_repr_says(name, expected, objects):
    assert repr(objects[name]) == expected


def test_a_history_without_losses_has_a_repr():
    assert repr(History()) == "History(0 steps)"


def test_a_merged_model_says_so():
    model = ml.load_model()
    lora.inject(model, r=1)
    lora.merge(model)
    assert repr(model).endswith("adapters: default (active, strength 1); merged into the weights")


class Cells(HTMLParser):
    """Parse the text of each table cell, row by row, and check that every tag that is opened is closed."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.open = [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_a_report_is_a_table_in_a_notebook(objects):
    report = objects["Report"]
    rows = Cells(report._repr_html_()).rows
    assert rows[0] == ["module", "weight", "trainable", "total", "percent"]
    printed = [line.split() for line in str(report).splitlines()]
    assert [[*" ".join(row).split()] for row in rows] == printed


def test_a_mixture_is_a_table_in_a_notebook(objects):
    mixture = objects["Mixture"]
    rows = Cells(mixture._repr_html_()).rows[1:]
    assert [row[0] for row in rows] == list(mixture.rank)
    assert rows[0][1:] == ["4", f"{mixture.error[rows[0][0]]:.2g}", f"{mixture.kept[rows[0][0]]:.1%}"]


def test_a_verdict_is_a_table_in_a_notebook_and_its_texts_are_escaped(objects):
    verdict = objects["Verdict"]
    assert verdict.holds is False
    html = verdict._repr_html_()
    assert Cells(html).rows[1][:4] == ["three", "<b>n</b> = 3", "BROKEN", "float64"]
    assert "<i>n" not in html
    assert "&lt;i&gt;n&lt;/i&gt; = 1" in html


def test_compared_texts_are_colored_columns_in_a_notebook(objects):
    compared = objects["compare"]
    html = compared._repr_html_()
    shown = re.sub(r"<[^>]*>", "", html)
    for text in compared:
        assert text.text in shown.replace("&#x27;", "'").replace("&quot;", '"')
    assert "style meter" in shown
    assert "background" in html
    assert html.count("<td") == len(compared)
