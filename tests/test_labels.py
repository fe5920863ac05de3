"""Label spaces, votes and targets."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo.config import PLUTCHIK, UserError
from emo.labels import binarise, named_space, positive_share, renamed, renames, shares


def test_label_spaces():
    assert named_space(" Plutchik") == PLUTCHIK
    assert named_space(" Joy, Anger") == ("joy", "anger")


@pytest.mark.parametrize(("value", "words"), [("joy,,anger", "empty name"), ("joy,Joy", "twice")])
def test_label_spaces_that_make_no_sense(value, words):
    with pytest.raises(UserError, match=words):
        named_space(value)


@pytest.mark.parametrize("nothing", [None, "", "  ", math.nan])
def test_missing_labels_are_unlabelled(nothing):
    assert shares(nothing, None, None) is None
    assert shares(nothing, nothing, 5) is None


def test_labelled_with_nothing_is_labelled():
    assert shares([], None, None) == {}
    assert shares(None, {"joy": 0}, 3) == {}


def test_labels_as_list_or_text():
    assert shares([" Joy", "anger"], None, None) == {"joy": 1.0, "anger": 1.0}
    assert shares("joy; Anger;", None, None) == {"joy": 1.0, "anger": 1.0}
    assert shares([3], None, None) == {"3": 1.0}


@pytest.mark.parametrize(
    "votes", [{"Joy": 3, "anger": 1, "fear": None}, '{"Joy": 3, "anger": 1}', [("Joy", 3), ("anger", 1)]]
)
def test_votes_become_shares_and_win_over_labels(votes):
    assert shares(["sadness"], votes, "4") == {"joy": 0.75, "anger": 0.25}


@pytest.mark.parametrize(
    ("labels", "votes", "annotators", "reason"),
    [
        (None, {"joy": 1}, None, "votes without annotators"),
        (None, {"joy": 4}, 3, "more votes"),
        (None, {"joy": 2, "Joy": 2}, 3, "more votes"),
        (None, {"joy": -1}, 3, "negative"),
        (None, {"joy": 1}, 0, "above 0"),
        (None, {"joy": 1}, "many", "above 0"),
        (None, "{joy", 3, "not valid JSON"),
        (None, "7", 3, "not a mapping"),
        (None, {"joy": "x"}, 3, "not a mapping"),
        ({"joy": 1}, None, None, "neither a list"),
        ([None], None, None, "neither a list"),
    ],
)
def test_what_cannot_be_read_says_why(labels, votes, annotators, reason):
    with pytest.raises(ValueError, match=reason):
        shares(labels, votes, annotators)


@pytest.mark.parametrize(
    ("votes", "positive"),
    [
        ({"majority": 3, "any": 1, "threshold": 4}, True),
        ({"majority": 2, "any": 0, "threshold": 3}, False),
    ],
)
def test_every_way_from_votes_to_labels(votes, positive):
    for way, count in votes.items():
        share = np.float32(count / 5)
        assert binarise(share, positive_share(way, 0.8)) == positive, way


def test_half_is_no_majority():
    assert not binarise(np.float32(0.5), positive_share("majority", 0.5))
    assert binarise(np.float32(0.5), positive_share("soft", 0.5))
    assert binarise(np.float32(51 / 101), positive_share("majority", 0.5))


def test_synonyms_are_read_where_the_space_knows_only_the_other_name():
    assert renames((), ("joy", "sadness"), mixing=False)["happiness"] == "joy"
    assert "happiness" not in renames((), ("happiness", "joy"), mixing=False)
    assert renames((), None, mixing=False) == {}
    assert renames((), None, mixing=True)["sad"] == "sadness"
    assert renames(("Sad = anger", "love="), None, mixing=True) | {} == renames((), None, mixing=True) | {
        "sad": "anger",
        "love": "",
    }


def test_labels_that_become_one_add_up():
    assert renamed({"happy": 0.25, "joy": 0.5, "love": 0.25}, {"happy": "joy", "love": ""}) == {"joy": 0.75}
    assert renamed({"happy": 1.0, "joy": 1.0}, {"happy": "joy"}) == {"joy": 1.0}


@given(
    st.integers(1, 50).flatmap(lambda total: st.tuples(st.integers(0, total), st.integers(1, total), st.just(total)))
)
def test_binarise_agrees_with_whole_numbers(case):
    votes, needed, total = case
    named = shares(None, json.dumps({"joy": votes}), total)
    assert binarise(np.float32(named.get("joy", 0.0)), needed / total) == (votes >= needed)
