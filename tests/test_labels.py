"""Label spaces, votes and targets."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo.config import PLUTCHIK, UserError
from emo.labels import binarise, parse_label_space, shares, targets_of


def test_label_spaces():
    assert parse_label_space("plutchik", ["x"]) == PLUTCHIK
    assert parse_label_space("auto", ["Joy ", "anger", "joy"]) == ("anger", "joy")
    assert parse_label_space(" Joy, Anger", []) == ("joy", "anger")


@pytest.mark.parametrize(("value", "words"), [("joy,,anger", "empty name"), ("joy,Joy", "twice")])
def test_label_spaces_that_make_no_sense(value, words):
    with pytest.raises(UserError, match=words):
        parse_label_space(value, [])


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


def test_targets_keep_the_order_of_the_space():
    targets = targets_of({"joy": 0.6, "anger": 1.0}, ("anger", "fear", "joy"))
    assert targets.dtype == np.float32
    assert targets.tolist() == pytest.approx([1.0, 0.0, 0.6])
    with pytest.raises(ValueError, match="outside the label space: 'trust'"):
        targets_of({"trust": 1.0}, ("anger",))


@given(
    st.integers(1, 50).flatmap(lambda total: st.tuples(st.integers(0, total), st.integers(1, total), st.just(total)))
)
def test_binarise_agrees_with_whole_numbers(case):
    votes, needed, total = case
    named = shares(None, json.dumps({"joy": votes}), total)
    assert binarise(targets_of(named, ("joy",)), needed / total).tolist() == [votes >= needed]
