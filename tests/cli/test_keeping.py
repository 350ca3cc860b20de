"""Existing runs, models and adapters are never overwritten, and a run resumes only with its own settings and data."""

import pytest


@pytest.mark.parametrize("command", ["finetune", "pretrain"])
@pytest.mark.parametrize("holder", ["tiny", "bard"])
def test_a_folder_that_holds_a_run_is_not_written_over(command, holder, here, fails, contents):
    folder = getattr(here, holder)
    flags = [command, "--corpus", here.verse, "--context", 16, "--iters", 1, "--out", folder]
    before = contents(here.root)
    assert "already contains a run; resume it, or choose another folder" in fails(*flags)
    (folder / "checkpoint.safetensors").unlink()
    assert "already contains a model or an adapter; choose another folder" in fails(*flags)
    (folder / "checkpoint.safetensors").write_bytes(before[f"{holder}/checkpoint.safetensors"])
    assert contents(here.root) == before


@pytest.mark.parametrize("out", ["tiny", "log"])
def test_merge_does_not_write_over_a_model_or_an_adapter(out, here, fails, contents):
    before = contents(here.root)
    line = fails("merge", "--model", here.tiny, "--adapter", here.bard, "--out", getattr(here, out))
    assert "already contains a model or an adapter; choose another folder" in line
    assert contents(here.root) == before


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("finetune --resume --out {bard} --method full --rank 2", "--method lora, but this command sets it to full"),
        ("finetune --resume --out {bard} --rank 3", "--rank 2, but this command sets it to 3"),
        ("finetune --resume --out {bard} --corpus x", "unknown corpus 'x'; expected one of"),
        ("finetune --resume --out {bard} --preset demo", "--rank 2, but this command sets it to 8"),
        ("pretrain --resume --out {tiny} --seed 1", "--seed 0, but this command sets it to 1"),
        ("pretrain --resume --out {tiny} --lr 3", "--lr 0.002, but this command sets it to 3.0"),
        ("finetune --resume --out {bard} --iters 4", "expected `iters` to be at least 5, the steps already done in"),
    ],
)
def test_resuming_with_other_flags(command, given, here, fails, contents):
    before = contents(here.root)
    verse = here.bard.joinpath("run.toml").read_text().split('"')[1]  # the corpus, with its full path
    line = fails(*command.format(**vars(here)).split())
    assert given.format(text=verse) in line
    assert contents(here.root) == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lr = 0.05", "lr = 0.04", "was saved with lr = 0.05, but this run has 0.04"),
        ("\nr = 2", "\nr = 3", "checkpoint.safetensors differ from those of this run"),
        ("lora_alpha = 4", "lora_alpha = 8", "was saved with default.lora_alpha = 4, but this run has 8"),
        ("{original}/verse", "{root}/text", "the training text is not the same as when"),
        ("{original}/tiny", "{root}/other", "the weights of the base model are not the same as when"),
        ('method = "lora"', 'method = "full"', "checkpoint.safetensors differ from those of this run"),
    ],
)
def test_resuming_another_run(old, new, words, here, original, minilora, fails, contents):
    """A run is not resumed if its record was edited, because its checkpoint belongs to a different run."""
    minilora("pretrain", "--preset", here.tiny / "run.toml", "--seed", 5, "--out", here.root / "other")
    old, new = (text.format(original=original, root=here.root) for text in (old, new))
    record = here.bard / "run.toml"
    assert record.read_text().count(old) == 1
    record.write_text(record.read_text().replace(old, new))
    before = contents(here.root)
    line = fails("finetune", "--resume", "--out", here.bard)
    assert line.startswith("cannot resume: ")
    assert words in line
    assert contents(here.root) == before


@pytest.mark.parametrize("part", [0, 0.3, 0.999])
def test_resuming_from_a_truncated_checkpoint(part, here, fails, contents):
    path = here.bard / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    before = contents(here.root)
    assert "is not a valid safetensors file" in fails("finetune", "--resume", "--out", here.bard)
    assert contents(here.root) == before


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(here, minilora, contents):
    before = contents(here.bard)
    for name in before.keys() - {"run.toml"}:
        (here.bard / name).unlink()
    (here.bard / ".checkpoint.safetensors.7-0123abcd.tmp").write_bytes(b"half of one")
    minilora("finetune", "--resume", "--out", here.bard)
    assert contents(here.bard) == before
