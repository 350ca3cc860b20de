"""The catalogue: the required description of every law, and a minimum number of laws in each group."""

import re

import pytest

from minilora.laws import CONFORMANCE, GROUPS, LAWS, catalogue
from minilora.laws.kit.law import EXACT, law


def test_there_are_laws_in_every_group():
    assert len(LAWS) >= 60
    for group, least in {"autograd": 8, "model": 8, "lora": 20, "merge": 10, "many": 13, "runs": 6}.items():
        assert len(catalogue(group)) >= least, group


def test_the_catalogue_goes_by_groups():
    groups = [law.group for law in catalogue()]
    assert groups == sorted(groups, key=list(GROUPS).index)
    assert len(groups) == len(LAWS)
    assert {law.group for law in catalogue("merge", "lora")} == {"merge", "lora"}


def test_an_unknown_group_lists_what_there_is():
    with pytest.raises(ValueError, match=f"unknown group of laws 'lor'; valid groups: {', '.join(GROUPS)}"):
        catalogue("lor")


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_a_law_says_what_it_claims_and_where_that_comes_from(law):
    assert re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)+", law.name)
    assert len(law.name) <= 60
    assert law.statement.endswith(".")
    assert "\n" not in law.statement
    assert len(law.statement) <= 130
    assert 3 <= len(law.equation) <= 100
    assert len(law.source) >= 8
    assert law.takes_layer is (law.group in CONFORMANCE)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_bounds_are_near_rounding(law):
    """The unit roundoffs are 1.1e-16 and 6e-8."""
    assert law.bound.keys() == {"float64", "float32"}
    assert law.bound["float64"] <= 1e-10
    assert law.bound["float32"] <= 1e-3
    assert (law.bound["float64"] == 0) == (law.bound["float32"] == 0)


def test_a_name_is_entered_once():
    """A second law of the same name would silently replace the first."""
    with pytest.raises(AssertionError, match="zero-B-is-the-identity"):

        @law("lora", "x = x", "nowhere", EXACT)
        def zero_B_is_the_identity(case, layer):
            """A twin."""

    assert LAWS["zero-B-is-the-identity"].statement != "A twin."
