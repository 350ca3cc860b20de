"""Parameter counts: r (in + out) for each adapted weight, and the published counts for Llama 2 7B."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora import Tensor, lora
from minilora.nn import Linear, Llama, LlamaConfig

LEAVES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@settings(max_examples=30, deadline=None)
@given(st.sets(st.sampled_from(LEAVES), min_size=1), st.integers(1, 40), st.booleans())
def test_r_times_in_plus_out(unit_llama, names, r, tied):
    model = unit_llama(tie_word_embeddings=tied)
    base = sum(array.size for array in model.state_dict().values())
    shapes = [
        m.weight.shape for p, m in model.named_modules() if isinstance(m, Linear) and p.rpartition(".")[2] in names
    ]
    assert len(shapes) == 3 * len(names)
    lora.inject(model, lora.LoraConfig(r=r, target_modules=sorted(names)), rng=np.random.default_rng(0))
    report = lora.report(model)
    assert report.trainable == sum(r * (n_out + n_in) for n_out, n_in in shapes)
    assert report.total == base + report.trainable
    assert report.percent == pytest.approx(100 * report.trainable / report.total)


def test_a_tied_head_is_shared_and_counts_its_adapter_alone(unit_llama):
    for tied in (True, False):
        model = unit_llama(tie_word_embeddings=tied)
        lora.inject(model, lora.LoraConfig(r=2, target_modules=["lm_head"]), rng=np.random.default_rng(0))
        report = lora.report(model)
        rows = {row.path: row for row in report.rows}
        assert [row.path for row in report.rows if row.shared] == (["lm_head"] if tied else [])
        adapter, weight = 2 * sum(model.lm_head.weight.shape), model.lm_head.weight.size
        assert rows["lm_head"].total == (adapter if tied else adapter + weight)
        assert ("shared" in str(report).splitlines()[-2]) == tied


def test_a_plain_model_trains_everything(unit_llama):
    report = lora.report(unit_llama())
    assert report.trainable == report.total == sum(p.size for p in unit_llama().parameters())
    assert report.percent == 100


def test_a_report_and_its_rows_stay_as_they_are(unit_llama):
    report = lora.report(unit_llama())
    for counted, name in ((report, "rows"), (report.rows[0], "total")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(counted, name, 0)


def test_of_two_adapters_the_active_one_is_trained(two_adapters):
    model = two_adapters()
    a, b = 3 * 3 * (12 + 24 + 12 + 12), 2 * 3 * (12 + 24 + 12 + 20 + 20 + 12)
    base = sum(p.size for name, p in model.named_parameters() if "lora" not in name)
    for choice, trainable in [("a", a), ("b", b), ({"a": 1, "b": 1}, a + b), (None, 0)]:
        lora.set_active(model, choice)
        assert (lora.report(model).trainable, lora.report(model).total) == (trainable, base + a + b)
    lora.merge(model)
    assert lora.report(model).total == base + a + b


def test_rows_and_the_printed_table(unit_llama, attach):
    model = attach(unit_llama(), r=3, target_modules=["up_proj"], rank_pattern={"0.mlp.up_proj": 1})
    report = lora.report(model)
    (row,) = [row for row in report.rows if row.path == "model.layers.*.mlp.up_proj"]
    assert (row.modules, row.shape, row.trainable) == (3, (20, 12), (1 + 3 + 3) * 32)
    assert row.total == 3 * 20 * 12 + row.trainable
    assert sum(row.total for row in report.rows) == report.total
    lines = str(report).splitlines()
    assert len(lines) == len(report.rows) + 2
    assert len({len(line) for line in lines}) == 1  # columns are aligned
    (line,) = [line for line in lines if "up_proj" in line]
    assert line.split() == ["model.layers.*.mlp.up_proj", "3", "×", "20×12", "224", "944", "23.73%"]
    (line,) = [line for line in lines if "embed_tokens" in line]  # a single module has no count
    assert line.split() == ["model.embed_tokens", "29×12", "0", "348", "0.00%"]
    (line,) = [line for line in str(lora.report(unit_llama(num_hidden_layers=2))).splitlines() if "up_proj" in line]
    assert line.split()[1:4] == ["2", "×", "20×12"]
    assert lines[-1].split() == ["all", "224", f"{report.total:,}", f"{report.percent:.2f}%"]


def test_llama_2_7b(monkeypatch):
    """4,194,304 of 6,742,609,920 with r = 8 on q and v. The weights take no memory: each is a broadcast zero."""

    def nothing(rng, n_out, n_in, std):
        return Tensor(np.broadcast_to(np.float32(0), (n_out, n_in)), requires_grad=True)

    for module in ("attention", "llama"):
        monkeypatch.setattr(f"minilora.nn.{module}.random_weight", nothing)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        tie_word_embeddings=False,
    )
    model = Llama(config, np.random.default_rng(0))
    assert lora.report(model).total == 6_738_415_616
    lora.inject(model, lora.LoraConfig(r=8), rng=np.random.default_rng(0))
    report = lora.report(model)
    assert (report.trainable, report.total) == (4_194_304, 6_742_609_920)
    assert round(report.percent, 4) == 0.0622
