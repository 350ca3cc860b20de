"""Regular expressions from config files: common ones match as with `re`, which PEFT uses, and slow ones stop."""

import re
import time

import pytest

from minilora.adapters import expressions
from minilora.adapters.expressions import Matcher
from minilora.lora import AdapterError, LoraConfig

PARTS = "self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "input_layernorm"
PATHS = [f"model.layers.{i}.{part}" for i in (0, 2, 7, 17, 27) for part in PARTS] + ["lm_head", "model.visual.0.q_proj"]
UNSLOTH = (
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|qkv|out_proj|fc1|fc2).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|k_proj)))"
)
COMMON = [
    "q_proj",
    "lm_head|q_proj",
    ".*",
    r".*\.(q|k)_proj",
    r"model\.layers\.[02]\..*_proj",
    r"model\.layers\.\d+\.(self_attn|mlp)\..*_proj",
    r".*layers\.(1|2|3|10|11)\..*",
    r"^(?!.*visual).*(?:q_proj|k_proj|v_proj).*",
    r"^(?!.*lm_head)(?!.*embed).*proj$",
    r"(?i).*Q_PROJ",
    r"(?P<layer>\d\d?)[.)(|*+]+x",
    r"(.*\.)?layers\.[0-9]{1,2}(?#(a)\..*",
    r"([\w.]+)+",
    r".*.*.*.*.*.*.*_proj",
    UNSLOTH,
]


@pytest.mark.parametrize("expression", COMMON)
def test_what_people_write_means_what_pythons_own_matcher_says(expression):
    config = LoraConfig(target_modules=expression)
    found = [path for path in PATHS if config.matches(expression, path)]
    assert found == [path for path in PATHS if re.fullmatch(expression, path)]


def test_a_key_for_each_layer():
    """Configs may have one key per layer: 64 keys in each pattern are matched within the time limit."""
    keys = [rf".*\.layers\.{i}\..*q_proj$" for i in range(64)]
    config = LoraConfig(
        rank_pattern={key: i + 1 for i, key in enumerate(keys)},
        alpha_pattern={key: 2.0 * (i + 1) for i, key in enumerate(keys)},
    )
    began = time.process_time()
    for i in range(64):
        path = f"model.layers.{i}.self_attn.q_proj"
        assert (config.rank(path), config.alpha(path)) == (i + 1, 2 * (i + 1))
        assert config.rank(path.replace("q_proj", "k_proj")) == 8
    assert time.process_time() - began < expressions.MOST_SECONDS


@pytest.mark.parametrize("expression", [r"(?:.|\w)+[#!]", r"((.|\w)*)*[#!]"])
def test_what_takes_for_ever_is_stopped(expression, monkeypatch):
    monkeypatch.setattr(expressions, "MOST_SECONDS", 0.2)
    config, began = LoraConfig(target_modules=expression), time.process_time()
    for _ in range(3):  # the time limit applies to the config, not to each match
        with pytest.raises(AdapterError, match=r"takes too long to match; use fewer repetitions such as \.\*"):
            config.matches(expression, "model.layers.1.self_attn.q_proj")
    assert time.process_time() - began < 1


def test_all_matches_of_a_config_share_the_time(monkeypatch):
    matcher = Matcher()
    matcher.left = 0.0
    with pytest.raises(AdapterError, match="takes too long"):
        matcher.matches(r"(?:.|\w)+[#!]", "model.layers.1.self_attn.q_proj")
    assert Matcher().left == expressions.MOST_SECONDS


def test_what_was_found_is_remembered(monkeypatch):
    matcher, matched = Matcher(), []
    right = Matcher._match
    monkeypatch.setattr(Matcher, "_match", lambda *a: matched.append(a[1:]) or right(*a))
    assert [matcher.matches("q|k", path) for path in ("q", "v", "q", "v")] == [True, False, True, False]
    assert matched == [("q|k", "q"), ("q|k", "v")]


@pytest.mark.parametrize(("expression", "length"), [("q" * 1_001, 1_001), ("(" * 600 + ")" * 600, 1_200)])
def test_too_long_an_expression_is_refused(expression, length):
    LoraConfig(target_modules="q" * 1_000)
    with pytest.raises(AdapterError, match="expected a regular expression of at most 1,000 characters"):
        LoraConfig(target_modules=expression)
    with pytest.raises(AdapterError, match="expected a regular expression of at most 1,000 characters"):
        LoraConfig(rank_pattern={expression: 1})
