"""Evaluation: what labelled predictions are worth, counted here by hand and by scikit-learn, and the page about it."""

import csv
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from sklearn.metrics import average_precision_score, log_loss, precision_score, recall_score

from emo.config import UserError
from emo.evaluation import (
    NONE,
    by_disagreement,
    confusion,
    evaluate,
    judged_posts,
    label_figures,
    mistakes_csv,
    plain_cell,
    worst_mistakes,
    write_evaluation,
)
from emo.metrics import bootstrap_intervals, score
from emo.plan import show_evaluation
from emo.thresholds import NEVER, decide

LABELS = ("joy", "anger.hot", "<awe>")
THRESHOLDS = np.array([0.5, 0.4, 0.6])


def write_predictions(folder: Path, shares: np.ndarray, probs: np.ndarray, unlabelled: np.ndarray) -> str:
    """A folder as predict.py leaves it, in two files of small row groups; returns its path."""
    names = np.array(LABELS)
    targets = pa.FixedSizeListArray.from_arrays(
        pa.array(shares.astype(np.float32).ravel()), len(LABELS), mask=pa.array(unlabelled)
    )
    columns = {
        "post_id": [f"p{i}" for i in range(len(probs))],
        "labels": pa.array([names[row].tolist() for row in decide(probs, THRESHOLDS)], pa.list_(pa.string())),
        **{f"prob/{name}": probs[:, k].astype(np.float32) for k, name in enumerate(LABELS)},
        "targets": targets,
        "kept": ["x"] * len(probs),
    }
    table, half = pa.table(columns), len(probs) // 2
    folder.mkdir()
    pq.write_table(table.slice(0, half), folder / "part-0.parquet", row_group_size=7)
    pq.write_table(table.slice(half), folder / "part-1.parquet", row_group_size=5)
    return str(folder)


def votes(seed: int = 0, num_posts: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares of five annotators with unknown cells, probs that follow them, and which posts are unlabelled."""
    rng = np.random.default_rng(seed)
    shares = rng.binomial(5, rng.beta(0.5, 1.2, (num_posts, len(LABELS)))) / 5
    probs = np.clip(0.5 * shares + 0.5 * rng.random(shares.shape), 0, 1)
    shares[rng.random(shares.shape) < 0.15] = np.nan
    shares[3] = np.nan  # labelled, yet nothing is known of it
    return shares, probs.astype(np.float32), np.arange(num_posts) % 5 == 2


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Predictions on disk, and what they hold of the posts that can be judged."""
    shares, probs, unlabelled = votes()
    folder = write_predictions(tmp_path_factory.mktemp("case") / "predictions", shares, probs, unlabelled)
    judged = np.flatnonzero(~unlabelled & ~np.isnan(shares).all(axis=1))
    assert {2, 3, 4} & set(judged) == {4}
    shares, probs = shares[judged], probs[judged]
    targets = np.where(np.isnan(shares), -1, shares >= 0.6 - 1e-6).astype(np.int8)
    predicted = decide(probs, THRESHOLDS)
    return {
        "folder": folder,
        "ids": [f"p{i}" for i in judged],
        "shares": shares,
        "probs": probs,
        "targets": targets,
        "predicted": predicted,
        "evaluation": evaluate(folder, LABELS, THRESHOLDS, 0.6),
    }


def test_only_posts_of_which_something_is_known_are_judged(case):
    batches = list(judged_posts(case["folder"], LABELS, 0.6))
    assert len(batches) > 1
    assert [post_id.as_py() for batch in batches for post_id in batch.post_ids] == case["ids"]
    for name in ("shares", "targets", "predicted", "probs"):
        np.testing.assert_allclose(np.concatenate([getattr(batch, name) for batch in batches]), case[name])


def test_figures_and_intervals_are_those_of_the_judged_posts(case):
    evaluation = case["evaluation"]
    assert evaluation["num_labelled"] == len(case["ids"])
    assert evaluation["metrics"] == score(case["targets"], case["predicted"], LABELS)
    expected = bootstrap_intervals(case["targets"], case["predicted"], LABELS)
    assert evaluation["intervals"] == {name: list(interval) for name, interval in expected.items()}
    assert json.loads(json.dumps(evaluation, allow_nan=False)) == evaluation
    for name, (low, high) in evaluation["intervals"].items():
        assert low < evaluation["metrics"][name] < high


def test_label_figures_are_those_of_scikit_learn(case):
    for k, found in enumerate(case["evaluation"]["labels"]):
        known = case["targets"][:, k] >= 0
        gold, given, probs = case["targets"][known, k] == 1, case["predicted"][known, k], case["probs"][known, k]
        assert (found["label"], found["threshold"], found["known"]) == (LABELS[k], THRESHOLDS[k], known.sum())
        assert found["tp"] == (gold & given).sum() > 0
        assert found["fp"] == (~gold & given).sum() > 0
        assert found["fn"] == (gold & ~given).sum() > 0
        assert found["tn"] == (~gold & ~given).sum() > 0
        assert (found["support"], found["predicted"]) == (gold.sum(), given.sum())
        assert found["precision"] == pytest.approx(precision_score(gold, given))
        assert found["recall"] == pytest.approx(recall_score(gold, given))
        assert found["f1"] == pytest.approx(case["evaluation"]["metrics"][f"f1/{LABELS[k]}"])
        assert found["average_precision"] == pytest.approx(average_precision_score(gold, probs))
        assert found["interval"] == case["evaluation"]["intervals"][f"f1/{LABELS[k]}"]


def test_figures_that_do_not_exist_are_none():
    probs = np.array([0.1, 0.2])
    absent = label_figures(np.array([0, 0], np.int8), np.array([False, False]), probs)
    assert (absent["precision"], absent["recall"], absent["f1"], absent["average_precision"]) == (None, None, 0, None)
    unknown = label_figures(np.array([-1, -1], np.int8), np.array([True, False]), probs)
    assert (unknown["known"], unknown["predicted"], unknown["f1"]) == (0, 0, None)


def confusion_by_hand(targets: np.ndarray, predicted: np.ndarray) -> dict[tuple[str, str], int]:
    """The table as its definition reads, cell by cell; empty cells are left out."""
    counts: dict[tuple[str, str], int] = {}
    for row, told in zip(targets, predicted, strict=True):
        names = "abcd"[: len(row)]
        hits = [n for n, t, p in zip(names, row, told, strict=True) if t == 1 and p]
        missed = [n for n, t, p in zip(names, row, told, strict=True) if t == 1 and not p]
        wrong = [n for n, t, p in zip(names, row, told, strict=True) if t == 0 and p]
        pairs = [(n, n) for n in hits]
        if missed or wrong:
            pairs += [(m, w) for m in missed or [NONE] for w in wrong or [NONE]]
        elif not hits and (row >= 0).any():
            pairs.append((NONE, NONE))
        for pair in pairs:
            counts[pair] = counts.get(pair, 0) + 1
    return counts


@st.composite
def readings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 4)))
    return draw(hnp.arrays(np.int8, shape, elements=st.integers(-1, 1))), draw(hnp.arrays(bool, shape))


@settings(deadline=None)
@given(readings())
def test_confusion_is_what_its_definition_says(reading):
    table = confusion(*reading)
    names = [*"abcd"[: table.shape[0] - 1], NONE]
    found = {(g, p): int(table[i, j]) for i, g in enumerate(names) for j, p in enumerate(names) if table[i, j]}
    assert found == confusion_by_hand(*reading)


def test_the_confusion_table_of_an_evaluation_has_the_hits_on_its_diagonal(case):
    table = case["evaluation"]["confusion"]
    assert table["names"] == [*LABELS, NONE]
    assert np.diag(table["counts"])[:-1].tolist() == [each["tp"] for each in case["evaluation"]["labels"]]
    assert table["counts"] == confusion(case["targets"], case["predicted"]).tolist()


def test_thirds_go_from_agreement_to_disagreement(case):
    parts = case["evaluation"]["agreement"]
    shares = case["shares"]
    spread = np.array([np.mean([2 * s * (1 - s) for s in row if not np.isnan(s)]) for row in shares])
    assert [part["name"] for part in parts] == ["least disagreement", "in between", "most disagreement"]
    assert sum(part["num_posts"] for part in parts) == len(shares)
    assert all(a["disagreement"][1] < b["disagreement"][0] for a, b in itertools.pairwise(parts))
    for part in parts:
        low, high = part["disagreement"]
        rows = (spread >= low - 1e-6) & (spread <= high + 1e-6)
        assert part["num_posts"] == rows.sum() == pytest.approx(len(shares) / 3, abs=10)
        assert part["metrics"] == score(case["targets"][rows], case["predicted"][rows], LABELS)


def test_posts_that_disagree_alike_stay_together():
    shares = np.array([[0.0]] * 8 + [[0.4]] * 2)
    targets, predicted = np.zeros((10, 1), np.int8), np.zeros((10, 1), bool)
    assert [(part["name"], part["num_posts"]) for part in by_disagreement(shares, targets, predicted, ("a",))] == [
        ("in between", 8),
        ("most disagreement", 2),
    ]
    assert by_disagreement(shares[:8], targets[:8], predicted[:8], ("a",)) == []
    assert by_disagreement(np.array([[0.0], [1.0]]), targets[:2], predicted[:2], ("a",)) == []


def test_worst_mistakes_are_the_wrong_posts_with_the_highest_loss(case):
    expected = []
    for i, post_id in enumerate(case["ids"]):
        known = case["targets"][i] >= 0
        gold = case["targets"][i, known] == 1
        if (gold != case["predicted"][i, known]).any():
            loss = log_loss(gold, case["probs"][i, known].astype(float), labels=[False, True])
            expected.append((loss, post_id))
    expected.sort(reverse=True)
    assert len(expected) > 12
    found = worst_mistakes(case["folder"], LABELS, 0.6, num_mistakes=12)
    assert [row["post_id"] for row in found] == [post_id for _, post_id in expected[:12]]
    assert [row["loss"] for row in found] == pytest.approx([loss for loss, _ in expected[:12]], rel=1e-4)
    assert [row["post_id"] for row in worst_mistakes(case["folder"], LABELS, 0.6, 2)] == [p for _, p in expected[:2]]
    assert len(worst_mistakes(case["folder"], LABELS, 0.6)) == min(50, len(expected))
    for row in found:
        i = case["ids"].index(row["post_id"])
        for name, mask in (
            ("gold", case["targets"][i] == 1),
            ("predicted", case["predicted"][i]),
            ("unknown", case["targets"][i] < 0),
        ):
            assert row[name] == [label for label, chosen in zip(LABELS, mask, strict=True) if chosen]
        assert list(row["probs"].values()) == pytest.approx(case["probs"][i].tolist())


def test_a_certain_mistake_has_a_finite_loss(tmp_path):
    probs = np.array([[1, 0, 0], [0, 0, 0.9]], np.float32)
    folder = write_predictions(tmp_path / "p", np.array([[0, 0, 0], [0, 0, 1.0]]), probs, np.zeros(2, bool))
    (row,) = worst_mistakes(folder, LABELS, 0.5)
    assert row["post_id"] == "p0"
    assert row["loss"] == pytest.approx(-np.log(1e-7) / 3, rel=1e-3)


def test_without_a_labelled_post_there_is_nothing_to_judge_by(tmp_path):
    folder = write_predictions(tmp_path / "p", *votes(num_posts=10)[:2], np.ones(10, bool))
    with pytest.raises(UserError, match="has no labelled post"):
        evaluate(folder, LABELS, THRESHOLDS, 0.5)
    assert worst_mistakes(folder, LABELS, 0.5) == []


def test_no_spreadsheet_takes_a_text_for_a_formula():
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", " =1+1", "\t=1", "\r1", "\n1", "＝1"):
        assert plain_cell(text) == f"'{text}"
    for text in ("", "so happy", "a = b", "'quoted'", "1-2"):
        assert plain_cell(text) == text
    row = {"post_id": "-1", "loss": 1.5, "gold": ["=gold"], "predicted": [], "probs": {"=gold": 0.25}}
    (read,) = csv.DictReader(
        io.StringIO(mistakes_csv([row | {"text": "=cmd()\nline", "tags": ["@a", "b"]}], ["=gold"]))
    )
    assert read == {
        "post_id": "'-1",
        "loss": "1.5",
        "gold": "'=gold",
        "predicted": "",
        "text": "'=cmd()\nline",
        "tags": "'@a;b",
        "prob/=gold": "0.25",
    }


def picture() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3)).astype(np.uint8)
    Image.fromarray(noise).save(buffer, format="PNG")
    return buffer.getvalue()


def test_an_evaluation_is_written_as_json_csv_and_a_page(case, tmp_path, capsys):
    mistakes = worst_mistakes(case["folder"], LABELS, 0.6, num_mistakes=5)
    content = [
        {"text": "<script>alert(1)</script> & more", "tags": ["sun<set>"], "image": picture()},
        {"text": None, "tags": None, "image": b"broken"},
    ]
    rows = [row | extra for row, extra in zip(mistakes, [*content, {}, {}, {}], strict=True)]
    write_evaluation(str(tmp_path), case["evaluation"], rows)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == case["evaluation"]
    read = list(csv.DictReader(io.StringIO((tmp_path / "mistakes.csv").read_text())))
    assert [row["post_id"] for row in read] == [row["post_id"] for row in mistakes]
    page = (tmp_path / "evaluation.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    assert "#sun&lt;set&gt;" in page
    assert "&lt;awe&gt;" in page
    assert not re.search(r"<script|<awe>|<set>|url\(|@import", page)
    assert set(re.findall(r'(?:src|href)="(data:image/\w+;|#|[^"]*)', page)) == {"data:image/jpeg;", "#"}
    assert page.count("<article") == 5
    assert page.count("<img") == 1
    assert len(page) < 150_000  # the picture alone has three megabytes
    metrics = case["evaluation"]["metrics"]
    assert f"Macro F1 {metrics['macro_f1']:.3f} on {len(case['ids'])} labelled posts." in page
    for name in ("micro_f1", "jaccard", "hamming"):
        assert f"<strong>{metrics[name]:.3f}</strong>" in page
    show_evaluation(case["evaluation"])
    said = capsys.readouterr().out
    assert f"{metrics['macro_f1']:.3f}" in said
    assert "anger.hot" in said


def test_a_page_of_what_is_unknown_or_never_predicted(tmp_path):
    shares = np.array([[1, 0, np.nan], [0, 0, np.nan]])
    folder = write_predictions(tmp_path / "p", shares, np.array([[0.9, 0.1, 0.1], [0.1, 0.1, 0.1]]), np.zeros(2, bool))
    evaluation = evaluate(folder, LABELS, np.array([0.5, 0.4, NEVER]), 0.5)
    assert evaluation["agreement"] == []
    write_evaluation(str(tmp_path / "out"), evaluation, worst_mistakes(folder, LABELS, 0.5))
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "Every post was read rightly." in page
    assert ">never<" in page
    assert "unknown of a post" in page
    assert 'id="agreement"' not in page
