"""`minilora generate`, `merge`, `eval`, `info` and `data` on existing folders."""

import hashlib
import json
import re

import numpy as np
import pytest

from minilora import lora
from minilora.assets import BASE
from minilora.data import load_ids, sources
from minilora.data.sources import Source
from minilora.files import read_tensors
from minilora.generation import Sampler, write
from minilora.messages import visible
from minilora.nn import Llama
from minilora.training import evaluate
from minilora.voices import voice_folder


def test_generate_writes_what_the_library_writes(both, model, minilora):
    flags = ["--prompt", "The king ", "--tokens", 30, "--seed", 4, "--temperature", 1.5, "--top-k", 40, "--top-p", 0.9]
    out = minilora("generate", *both, *flags)
    expected = write(model, "The king ", 30, Sampler(1.5, 40, 0.9), seed=4)
    assert out == visible(f"The king {expected}") + "\n"
    assert minilora("generate", *both, *flags) == out
    assert minilora("generate", *both, *flags, "--seed", 5) != out


def test_generate_ends_before_a_stop_text(here, minilora):
    """Of several stop texts, the one that occurs first counts; \\n stands for a newline."""
    flags = ["generate", "--voice", "shakespeare", "--prompt", "The king ", "--tokens", 60]
    whole = minilora(*flags)
    body = whole.removeprefix("The king ").removesuffix("\n")
    assert body.index("\n") < body.index("love")
    assert minilora(*flags, "--stop", r"\n", "--stop", "love") == "The king " + body[: body.index("\n")] + "\n"
    assert minilora(*flags, "--stop", "love") == "The king " + body[: body.index("love")] + "\n"
    assert minilora(*flags, "--stop", "no such text") == whole


def test_a_strength_of_zero_is_no_adapter_and_the_default_is_one(here, minilora):
    flags = ["--model", here.tiny, "--tokens", 40]
    base = minilora("generate", *flags)
    assert minilora("generate", *flags, "--adapter", f"{here.bard}:0") == base
    full = minilora("generate", *flags, "--adapter", here.bard)
    assert full != base
    assert minilora("generate", *flags, "--adapter", f"{here.bard}:1") == full
    assert minilora("generate", *flags, "--adapter", f"{here.bard}:5") not in (base, full)


def test_a_folder_with_a_colon_in_its_name(here, minilora):
    flags = ["generate", "--model", here.tiny, "--tokens", 40]
    expected = [minilora(*flags, "--adapter", f"{here.bard}{strength}") for strength in ("", ":5")]
    folder = here.bard.rename(here.root / "bard:2")
    assert [minilora(*flags, "--adapter", f"{folder}{strength}") for strength in ("", ":5")] == expected


def test_merge_says_how_exact_it_is_and_saves_what_was_attached(here, both, model, minilora):
    out = minilora("merge", *both, "--out", "merged")
    said = re.search(r"max \|Δlogit\|, merged vs. attached: (\S+) in float32, (\S+) in float64", out)
    assert float(said[1]) < 1e-4
    assert float(said[2]) < 1e-12
    ids = np.random.default_rng(0).integers(0, 256, (3, 16))
    attached, merged = model(ids).data, Llama.from_pretrained("merged")(ids).data
    base = Llama.from_pretrained(here.tiny)(ids).data
    assert np.abs(merged - attached).max() < 1e-5 * np.abs(attached).max()
    assert np.abs(base - attached).max() > 1e-2 * np.abs(attached).max()
    assert read_tensors("merged/model.safetensors").keys() == read_tensors(here.tiny / "model.safetensors").keys()
    minilora("merge", *both, "--dtype", "float16", "--out", "half")
    assert {a.dtype for a in read_tensors("half/model.safetensors").values()} == {np.dtype(np.float16)}


def test_merge_says_when_the_head_is_no_longer_tied(minilora):
    """The head of the packaged base is tied to the embedding, and the voice python adapts it."""
    for voice, head in (("recipe", ""), ("python", " plus lm_head.weight, which is no longer tied to the embedding")):
        out = minilora("merge", "--voice", voice, "--out", voice)
        assert out.splitlines()[-1].endswith(f"the same names as the base{head}")
        found, base = (set(Llama.from_pretrained(folder).state_dict()) for folder in (voice, BASE))
        assert found - base == ({"lm_head.weight"} if head else set())


def test_eval_says_what_the_library_measures(here, both, model, minilora):
    flags = ["--corpus", here.verse, "--windows", 20, "--context", 12, "--json", "figures.json"]
    out = minilora("eval", *both, *flags)
    loss = evaluate(model, load_ids([str(here.verse)])[1], 12, 20)
    figures = json.loads((here.work / "figures.json").read_text())
    assert figures.keys() >= {"corpus", "loss", "windows", "context"}
    assert figures["loss"] == pytest.approx(loss, rel=1e-6)
    assert (figures["corpus"], figures["windows"], figures["context"]) == ([str(here.verse)], 20, 12)
    assert f"{loss:.4f} nats per byte ({loss / np.log(2):.4f} bits), 20 windows of 12 tokens" in out
    out = minilora("eval", *both, "--corpus", here.verse, "--windows", 16)
    assert "16 windows of 16 tokens" in out  # by default, the model's context


def test_info_on_a_model(here, minilora, monkeypatch):
    out = minilora("info", here.tiny)
    assert "1 layers, width 16, 2 heads (2 key/value heads), MLP 32, context 16, vocabulary 256" in out
    total = sum(array.size for array in read_tensors(here.tiny / "model.safetensors").values())
    assert re.search(rf"^all .* {total:,} ", out, re.M)
    assert f"{(here.tiny / 'model.safetensors').stat().st_size:,} bytes on disk" in out
    monkeypatch.setattr("minilora.cli.info.BASE", here.tiny)
    assert minilora("info") == out


def test_info_on_an_adapter(here, minilora):
    out = minilora("info", here.bard, "--model", here.tiny, "--json", "figures.json")
    assert out.startswith("a LoRA adapter of rank 2, alpha 4, scaled by α/r = 2, dropout 0\ntargets: ")
    assert f"\nfits {here.tiny}\n" in out
    tensors = read_tensors(here.bard / "adapter_model.safetensors")
    size = (here.bard / "adapter_model.safetensors").stat().st_size
    assert f"\n{sum(a.size for a in tensors.values()):,} parameters, {size:,} bytes on disk\n" in out
    assert max(map(len, out.splitlines())) <= 120
    a, b = (tensors[f"base_model.model.model.layers.0.mlp.up_proj.lora_{x}.weight"] for x in "AB")
    (line,) = re.findall(r"^model\.layers\.0\.mlp\.up_proj .*$", out, re.M)
    values = np.linalg.svd(2 * b.astype(float) @ a.astype(float), compute_uv=False)[:2]
    norm, shares = np.sqrt(np.sum(values**2)), values / values.sum()
    base = np.linalg.norm(read_tensors(here.tiny / "model.safetensors")["model.layers.0.mlp.up_proj.weight"])
    rank = np.exp(-np.sum(shares * np.log(shares)))
    assert line.split()[1:] == ["2×16", "32×2", "96", f"{norm:.3f}", f"{norm / base:.4f}", f"{rank:.2f}"]
    assert norm > 0.01
    loaders = "PEFT       yes", "vLLM       yes", "llama.cpp  yes, after convert_lora_to_gguf.py"
    assert out.splitlines()[-3:] == list(loaders)
    figures = json.loads((here.work / "figures.json").read_text())
    (module,) = [module for module in figures["modules"] if module["path"] == "model.layers.0.mlp.up_proj"]
    assert module["norm"] == pytest.approx(norm)
    assert (figures["config"]["r"], figures["fits"], figures["loaders"][1]["program"]) == (2, True, "vLLM")


def test_info_on_an_adapter_beside_a_base_that_it_does_not_fit(here, minilora):
    out = minilora("info", here.bard, "--model", BASE)
    (line,) = re.findall(rf"^does not fit {BASE} \(.*\); specify its base with --model$", out, re.M)
    assert "should have shape" in line or "is missing" in line
    rows = [row for row in out.splitlines() if row.startswith("model.layers.")]
    assert rows
    assert {row.split()[-2] for row in rows} == {"–"}


def test_info_on_an_adapter_of_several_ranks(here, minilora):
    model = Llama.from_pretrained(here.tiny)
    options = {"use_rslora": True, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 1}, "lora_dropout": 0.25}
    lora.inject(model, lora.LoraConfig(r=1, lora_alpha=8, **options), rng=np.random.default_rng(0))
    lora.save_adapter(model, "several")
    out = minilora("info", "several", "--model", here.tiny)
    assert out.startswith(
        "a LoRA adapter of rank 1 to 4, alpha 1 to 8, scaled by α/√r = 1 to 4, dropout 0.25\ntargets: q_proj"
    )
    rows = [row.split() for row in out.splitlines() if row.startswith("model.layers.")]
    assert {(row[4], row[6]) for row in rows} == {("0.000", "0.00")}  # B is still zero
    assert re.search(
        r"^vLLM       no, it scales all modules by 8, but model\.layers\.0\.self_attn\.q_proj needs 4$", out, re.M
    )
    assert re.search(r"^llama\.cpp  no, it scales model\.layers\.0\.self_attn\.q_proj by 2 instead of 4$", out, re.M)


def test_flags_that_are_for_adapters(here, fails):
    for flag in ("--model", "--json"):
        assert "--model and --json require an adapter folder" in fails("info", here.tiny, flag, here.tiny / "x")


def test_data_list_names_every_corpus(minilora):
    out = minilora("data", "list")
    for source in sources.SOURCES.values():
        assert all(text in out for text in (source.name, source.url, f"{source.bytes:,} bytes"))
    assert "pastiche" in out


def test_data_verify_and_fetch(here, minilora, monkeypatch):
    content = here.verse.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    play = Source("play", "play.txt", len(content), digest, "https://example.invalid/play", "free", "a play")
    monkeypatch.setattr(sources, "SOURCES", {"play": play})
    assert "not on this machine" in minilora("data", "verify")
    (here.data / "play.txt").write_bytes(content)
    assert minilora("data", "verify").split() == ["play", "ok", str(here.data / "play.txt")]
    assert minilora("data", "fetch", "play") == f"play: {here.data / 'play.txt'}\n"


def test_info_hands_no_control_characters_to_the_terminal(here, minilora):
    """Text from an untrusted file is shown on one line, without escape sequences for the terminal to interpret."""
    file = here.bard / "adapter_config.json"
    config = json.loads(file.read_text())
    config["target_modules"].append("v_proj\n\x1b[2J\x07")
    file.write_text(json.dumps(config))
    out = minilora("info", here.bard, "--model", here.tiny)
    assert "v_proj  [2J " in out.splitlines()[1]
    assert not set(out) & {"\x1b", "\x07"}


def test_info_on_a_voice(minilora):
    assert minilora("info", "python") == minilora("info", voice_folder("python"))
