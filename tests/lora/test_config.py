"""Invalid configs, and the matching rules of the patterns."""

import dataclasses
import sys

import pytest

from minilora.lora import AdapterError, LoraConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "expected the rank r to be a positive integer, got 0"),
        ({"r": -1}, "rank r .* got -1"),
        ({"r": 2.0}, r"rank r .* got 2\.0"),
        ({"r": True}, "rank r .* got True"),
        ({"r": "8"}, "rank r .* got '8'"),
        ({"rank_pattern": {"q_proj": 0}}, "rank r .* got 0"),
        ({"lora_alpha": float("nan")}, "expected lora_alpha to be a finite number, got nan"),
        ({"lora_alpha": float("inf")}, "lora_alpha .* got inf"),
        ({"lora_alpha": "16"}, "lora_alpha .* got '16'"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "lora_alpha .* got nan"),
        ({"lora_dropout": -0.1}, r"expected lora_dropout to be at least 0 and below 1, got -0\.1"),
        ({"lora_dropout": 1}, "lora_dropout .* got 1"),
        ({"lora_dropout": float("nan")}, "lora_dropout .* got nan"),
        ({"lora_dropout": None}, "lora_dropout .* got None"),
        ({"init_lora_weights": "eva"}, "expected init_lora_weights to be True, False or 'gaussian', got 'eva'"),
        ({"init_lora_weights": "pissa"}, "expected init_lora_weights to be True, False or 'gaussian', got 'pissa'"),
        ({"target_modules": []}, "target_modules is empty"),
        ({"target_modules": ""}, "target_modules is empty"),
        ({"target_modules": 5}, "expected target_modules to be a list of names or a string, got 5"),
        ({"target_modules": "(q_proj"}, r"'\(q_proj' is not a valid regular expression"),
        ({"exclude_modules": "*"}, r"'\*' is not a valid regular expression"),
        ({"rank_pattern": {"[": 2}}, r"'\[' is not a valid regular expression"),
        ({"alpha_pattern": {"+": 2}}, r"'\+' is not a valid regular expression"),
        ({"rank_pattern": [2]}, r"expected rank_pattern to be a dict, got \[2\]"),
        ({"layers_to_transform": 1.5}, r"expected layers_to_transform to be a list .*, got 1\.5"),
        ({"use_rslora": "yes"}, "expected use_rslora to be True or False, got 'yes'"),
        (
            {"target_modules": ".*q_proj", "layers_to_transform": [0]},
            "layers_to_transform cannot be combined with a regular expression",
        ),
        ({"r": 10**30}, "rank r to be at most 65,536, got 1000"),
        ({"rank_pattern": {"q_proj": 65_537}}, "rank r to be at most 65,536, got 65537"),
        ({"rank_pattern": {"q_proj": True}}, "rank r .* got True"),
        ({"lora_alpha": 10**400}, r"expected lora_alpha to be a finite number, got 10{79}…$"),
        ({"lora_alpha": True}, "lora_alpha .* got True"),
        ({"alpha_pattern": {"q_proj": None}}, "lora_alpha .* got None"),
        ({"lora_dropout": False}, "lora_dropout .* got False"),
        ({"lora_dropout": "0"}, "lora_dropout .* got '0'"),
        ({"init_lora_weights": 1}, "expected init_lora_weights to be True, False or 'gaussian', got 1"),
        ({"target_modules": [1, None]}, "expected target_modules to contain module names, got 1"),
        ({"target_modules": True}, "expected target_modules to be a list of names or a string, got True"),
        (
            {"exclude_modules": ["q_proj", ["k_proj"]]},
            r"expected exclude_modules to contain module names, got \['k_proj'\]",
        ),
        ({"layers_to_transform": [[1]]}, r"expected layers_to_transform to contain layer indices, got \[1\]"),
        ({"layers_to_transform": [0, True]}, "expected layers_to_transform to contain layer indices, got True"),
        (
            {"layers_to_transform": True},
            "expected layers_to_transform to be a list of layer indices, a single index or None",
        ),
        ({"rank_pattern": {3: 3}}, "expected rank_pattern to contain regular expressions as keys, got 3"),
        ({"target_modules": ["q_proj"] * 2_001}, "expected target_modules to have at most 2,000 entries, got 2,001"),
        ({"alpha_pattern": {f"m{i}": 1 for i in range(2_001)}}, "expected alpha_pattern to have at most 2,000 entries"),
        ({"bias": ["a\nb"]}, r"bias = \['a\\nb'\] is not implemented"),
        ({"modules_to_save": ["x" * 1_000]}, r"modules_to_save = \['x{78}… is not implemented"),
        ({"target_modules": "a{99999999999}"}, "is not a valid regular expression .the repetition number is too large"),
        ({"target_modules": "[[a]"}, "is not a valid regular expression .Possible nested set"),
        ({"target_modules": "(?\n)"}, r"'\(\?\\n\)' is not a valid regular expression"),
        ({"rank_pattern": {"(?i)q_proj": 2}}, "is not a valid regular expression .global flags not at the start"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(AdapterError, match=message) as caught:
        LoraConfig(**options)
    assert "\n" not in str(caught.value)


def test_a_set_of_names_is_a_list_of_them():
    names = ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert LoraConfig(target_modules=set(names)).target_modules == names
    assert LoraConfig(target_modules=names[::-1]).target_modules == names[::-1]  # a list keeps its order
    with pytest.raises(AdapterError, match="expected target_modules to contain module names"):
        LoraConfig(target_modules={"q_proj", 1})


@pytest.mark.parametrize(
    "options",
    [
        {"r": 65_536},
        {"rank_pattern": {"q_proj": 1}},
        {"lora_alpha": -sys.float_info.max},
        {"lora_dropout": 0.999},
        {"target_modules": ["q_proj"] * 2_000},
        {"alpha_pattern": {f"m{i}": 1 for i in range(2_000)}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_at_their_limits_are_accepted(options):
    ((name, value),) = options.items()
    assert getattr(LoraConfig(**options), name) == value


def test_a_message_shows_eighty_characters_of_a_value():
    for text, shown in [("x" * 78, "'" + "x" * 78 + "'"), ("x" * 79, "'" + "x" * 79 + "…")]:
        with pytest.raises(AdapterError, match=f"bias = {shown} is not"):
            LoraConfig(bias=text)


def test_r_and_alpha_can_be_given_by_position():
    config = LoraConfig(4, 16, 0.1)
    assert (config.r, config.lora_alpha, config.lora_dropout, config.target_modules) == (
        4,
        16,
        0.1,
        ["q_proj", "v_proj"],
    )


def test_the_defaults_are_pefts():
    config = LoraConfig()
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora) == (8, 8, 0, False)
    assert config.target_modules == ["q_proj", "v_proj"]
    assert LoraConfig().target_modules is not config.target_modules
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.r = 4


PATH = "model.layers.12.self_attn.q_proj"


@pytest.mark.parametrize(
    ("key", "matches"),
    [
        ("q_proj", True),
        ("self_attn.q_proj", True),
        (PATH, True),
        (r"layers\.1[0-3]\..*", True),
        (".*_proj", True),
        ("^model.*", True),
        ("(q|k)_proj", True),
        ("proj", False),  # must start at a dot or at the beginning of the path
        ("q", False),  # must match up to the end
        ("2.self_attn.q_proj", False),
        ("layers.1.*", True),  # an unescaped dot matches any character
        (r"layers\.1\..*", False),
        ("^self_attn.q_proj", False),
    ],
)
def test_a_pattern_matches_the_end_of_a_path(key, matches):
    config = LoraConfig(rank_pattern={key: 2}, alpha_pattern={key: 3})
    assert config.rank(PATH) == (2 if matches else 8)
    assert config.scaling(PATH) == (3 / 2 if matches else 1)


def test_the_first_key_that_matches_counts():
    keys = {"up_proj": 2, "q_proj": 3, ".*_proj": 4}
    config = LoraConfig(r=16, lora_alpha=32, rank_pattern=keys)
    assert [config.rank(f"model.layers.0.x.{leaf}") for leaf in ("up_proj", "q_proj", "k_proj", "head")] == [
        2,
        3,
        4,
        16,
    ]
    assert [config.scaling(f"x.{leaf}") for leaf in ("up_proj", "k_proj", "head")] == [16, 8, 2]
    assert LoraConfig(rank_pattern=dict(reversed(keys.items()))).rank("x.q_proj") == 4


@pytest.mark.parametrize("name", ["r", "lora_alpha", "target_modules"])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_a_config_file_must_say_what_defines_the_update(name, how):
    values = LoraConfig().to_dict()
    values = {**values, name: None} if how == "null" else {k: v for k, v in values.items() if k != name}
    with pytest.raises(AdapterError, match=f"is missing {name}, which the update depends on"):
        LoraConfig.from_dict(values)


@pytest.mark.parametrize("kind", ["IA3", "lora", None, "absent"])
def test_a_config_file_of_another_method(kind):
    values = {**LoraConfig().to_dict(), "peft_type": kind}
    if kind == "absent":
        del values["peft_type"]
    with pytest.raises(AdapterError, match="expected an adapter with peft_type 'LORA', found "):
        LoraConfig.from_dict(values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_dora", True),
        ("trainable_token_indices", [1]),
        ("kasa_config", {"beta": 1e-4}),
        ("lora_bias", True),
        ("layer_replication", [[0, 1]]),
        ("an_option_of_next_year", 0.5),
    ],
)
def test_an_option_that_is_not_implemented_is_named(name, value):
    with pytest.raises(AdapterError, match=name) as caught:
        LoraConfig.from_dict({**LoraConfig().to_dict(), name: value})
    assert "not implement" in str(caught.value)


def test_what_a_file_says_is_repeated_in_one_short_line():
    for name, value in [("x\n" * 1_000, True), ("kasa_config", {"a\x1b[31m": ["b" * 10_000]})]:
        with pytest.raises(AdapterError, match="which minilora does not implement") as caught:
            LoraConfig.from_dict({**LoraConfig().to_dict(), name: value})
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 250


def test_options_that_are_off_or_say_nothing_about_the_update_are_passed_over():
    off = {"use_dora": False, "megatron_config": None, "loftq_config": {}, "an_option_of_next_year": False}
    silent = {"revision": "main", "base_model_name_or_path": "x/y", "peft_version": "9", "inference_mode": False}
    assert LoraConfig.from_dict({**LoraConfig().to_dict(), **off, **silent}) == LoraConfig()


def test_a_config_survives_its_own_file():
    config = LoraConfig(
        r=4,
        lora_alpha=2.5,
        lora_dropout=0.1,
        target_modules=["k_proj", "up_proj"],
        exclude_modules=["x"],
        layers_to_transform=[1, 2],
        rank_pattern={"up_proj": 2, ".*": 3},
        alpha_pattern={"k_proj": 0.5},
        use_rslora=True,
        init_lora_weights="gaussian",
    )
    assert LoraConfig.from_dict(config.to_dict()) == config
    assert LoraConfig.from_dict(LoraConfig(target_modules=r".*\.q_proj").to_dict()).target_modules == r".*\.q_proj"
