"""The values in the third tab are those of `lora.report` and `lora.merge_check`."""

from minilora import lora
from minilora.app import looking
from minilora.voices import voice_folder

FOLDER = voice_folder("shakespeare")


def test_the_table_is_the_report(cells):
    report = lora.report(looking.open_voice(FOLDER))
    head, *rows, total = cells(looking.parameters(FOLDER))
    assert head == ["module", "weight", "trained", "total", "percent"]
    assert [row[0] for row in rows] == [row.path for row in report.rows]
    assert [row[2] for row in rows] == [f"{row.trainable:,}" for row in report.rows]
    assert total == ["all", "", f"{report.trainable:,}", f"{report.total:,}", f"{report.percent:.2f}%"]
    assert report.trainable > 0
    assert ["model.layers.*.self_attn.q_proj", "6 × 192×192"] in [row[:2] for row in rows]


def test_only_that_voice_is_attached():
    model = looking.open_voice(FOLDER)
    assert len(lora.adapters(model)) == 1
    assert list(lora.active(model).values()) == [1.0]


def test_merging_is_measured(cells, monkeypatch):
    rows = dict(cells(looking.merging(FOLDER)))
    assert 0 < float(rows["max |Δlogit| in float64"]) < 1e-10
    assert 1e-10 < float(rows["max |Δlogit| in float32"]) < 1e-2
    assert rows["weights after unmerging, vs. the originals"] == "bit-for-bit identical"
    monkeypatch.setattr(looking.lora, "merge_check", lambda model, ids: lora.MergeCheck(1e-5, 2e-14, False))
    assert "NOT identical" in looking.merging(FOLDER)
