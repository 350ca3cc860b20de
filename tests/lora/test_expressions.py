"""Regular expressions from files: what people write passes, what could take hours does not."""

import re
import time

import pytest

from minilora.lora import AdapterError, LoraConfig
from minilora.lora.expressions import MOST_TRIES, most_tries

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
    r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$",
    r"^(?!.*visual).*(?:q_proj|k_proj|v_proj).*",
    r"^(?!.*lm_head)(?!.*embed).*proj$",
    r"(?i).*Q_PROJ",
    r"(?P<layer>\d\d?)[.)(|*+]+x",
    r"(?:ab)+|(?:q|k)*|\(\)*",
    r"(.*\.)?layers\.[0-9]{1,2}(?#(a)\..*",
    UNSLOTH,
]


@pytest.mark.parametrize("expression", COMMON)
def test_what_people_write(expression):
    assert most_tries(expression) <= MOST_TRIES
    assert LoraConfig(target_modules=expression).is_regex


ENDLESS = [
    r"([\w.]+)+!",
    r"(?:.*?)*!",
    r"((a*)b)*!",
    r"(.+)++!",
    r"(.+)+?!",
    r"(.{1,9}){1,9}!",
    r"([^x]{2,}){2,}!",
    r"(.+){20}!",
    r"(?=(.+)+!)",
    r"(?P<x>.+)*!",
    r"(?i:.+)*!",
    r"(\w|\w)+!",
    r"(?:o|o)*!",
    r"(a?)*!",
    r"(?:[)]|.+)+!",
    r"(?:[]()]|.+)+!",
    r"(?:\)|.+)+!",
    r"(?#()(.+)+!",
    r"(?x)(.+ # )" + "\n)+!",
    r"(?x:(.+ # )" + "\n))+!",
    "q|(.+)*!",
    "(" * 31 + "q" + ")" * 31,
    "(" * 499 + "q" + ")" * 499,
    "q" * 1_001,
]


@pytest.mark.parametrize("expression", ENDLESS)
def test_what_is_counted_as_endless(expression):
    assert most_tries(expression) == float("inf")


MANY = [
    ".*" * 6 + "!",
    r"[\w.]?" * 30 + "!",
    r"(?:\w|.)" * 30 + "!",
    "(?:m|mo)(?:o|od|d)(?:d|de|e)" * 12,
    "[a-z]{0,9}" * 9,
]


@pytest.mark.parametrize("expression", MANY)
def test_what_takes_too_many_tries(expression):
    assert MOST_TRIES < most_tries(expression) < float("inf")


def test_the_count_of_the_ways():
    """Where k repetitions can end among 48 letters, times the options; alternatives that begin alike add up."""
    counts = {
        "q": 1,
        ".*": 49,
        "a?": 2,
        "a?b?": 4,
        ".*.*": 1225,
        "(a|b)": 1,
        "(ab|ac|b)": 2,
        r"(a|\w|\d)": 3,
        "a?|b": 3,
        "a??b|c": 3,
        "a?+": 2,
        r"\?": 1,
        ".*é.*": 1225,
        "a*?b|c": 98,
        "a{2}|b": 98,
        r"\.a|\.b|c": 2,
    }
    assert {expression: most_tries(expression) for expression in counts} == counts


def test_the_tries_of_all_expressions_of_a_config_add_up():
    """Ten million for the targets and exclusions together, two hundred thousand for the keys: one more is refused."""
    pairs, fives = "(a|a)", "(a|a|a|a|a)"
    names, keys = pairs * 7 + fives * 7, pairs * 6 + fives * 5
    assert (most_tries(names), most_tries(keys)) == (10_000_000, 200_000)
    LoraConfig(target_modules=names)
    LoraConfig(rank_pattern={keys: 1})
    for options in ({"target_modules": names, "exclude_modules": "q"}, {"rank_pattern": {keys: 1, "q": 1}}):
        with pytest.raises(AdapterError, match="'q' could take hours to match"):
            LoraConfig(**options)
    with pytest.raises(AdapterError, match="'q' could take hours to match"):
        LoraConfig(rank_pattern={keys: 1}, alpha_pattern={"q": 1})


def test_the_longest_and_the_deepest_that_are_counted():
    assert most_tries("q" * 1_000) == 1
    assert most_tries("(" * 30 + "q" + ")" * 30) == 1


def test_what_passes_is_fast():
    """The slowest that passes, on a path on which it fails at the last letter."""
    expression = r"[\w.]*" * 5 + "!"
    assert most_tries(expression) <= MOST_TRIES < most_tries(r"[\w.]*" + expression)
    start = time.process_time()
    assert re.fullmatch(expression, "model.layers.10.self_attn.q_proj".ljust(48, "x")) is None
    assert time.process_time() - start < 2
