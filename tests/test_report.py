"""The report: a synthetic run folder goes in, one self-contained page comes out, whole runs and broken ones alike."""

import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emo import (
    calibration,
    config,
    figures,
    report,
    report_calibration,
    report_posts,
    report_run,
    report_tables,
    storage,
)
from emo.reliability import binned

LABELS = list(config.PLUTCHIK)
PREVALENCES = np.array([0.16, 0.22, 0.13, 0.06, 0.46, 0.11, 0.12, 0.10, 0.26])
ENCODERS = {"tiny-clip": 0.9, "tiny-bert": 0.75, "tiny-clip:text": 0.6, "tiny-siglip": 0.5, "tiny-clip:image": 0.25}
SPLITS = {"train": 540, "val": 135, "test": 225}
METRICS = ("macro_f1", "micro_f1", "weighted_f1", "subset_accuracy", "jaccard", "hamming")
TOP = 3
GAINS = {"fixed": 0.0, "optuna": 0.06, "exact": 0.07, "cross-fitted": 0.05}
"""What each rule adds to the macro F1 of every model."""


COST = {
    "usage": {
        "seconds": 600.0,
        "node_seconds": {"head": 600.0, "gpu-small-spot": 900.0},
        "core_seconds": 3600.0,
        "gpu_seconds": 900.0,
        "used_core_seconds": 1800.0,
        "used_gpu_seconds": 450.0,
    },
    "prices": {
        "currency": "EUR",
        "as_of": "2026-11-01",
        "source": "<our> contract",
        "nodes": {kind: {"per_hour": 2.0, "cpus": 4.0, "gpus": 1.0} for kind in ("head", "gpu-small-spot")},
    },
    "estimate": {
        "nodes": {"head": 1, "gpu-small-spot": 2},
        "cpus": 8.0,
        "gpus": 2.0,
        "stages": {"trials": 500.0},
        "seconds": [400.0, 500.0, 625.0],
        "because": ["six trials"],
    },
    "before": {
        "seconds": 60.0,
        "node_seconds": {"head": 60.0},
        "core_seconds": 0.0,
        "gpu_seconds": 0.0,
        "used_core_seconds": 0.0,
        "used_gpu_seconds": 0.0,
    },
}


def synthetic_run(folder: Path, labels: list[str] = LABELS, until: str = "end", name: str = "tiny-clip") -> str:
    """A run folder as a sweep leaves it; ``until`` trials stops half-way, ``name`` renames the winner."""
    rng = np.random.default_rng(0)
    encoders = {name if encoder == "tiny-clip" else encoder: skill for encoder, skill in ENCODERS.items()}
    prevalences = np.resize(PREVALENCES, len(labels))
    targets = {s: (rng.random((n, len(labels))) < prevalences).astype(np.float32) for s, n in SPLITS.items()}
    folder.mkdir(parents=True, exist_ok=True)
    _config(folder, encoders)
    _posts(folder, labels, targets)
    (folder / "cost.json").write_text(json.dumps(COST))
    trials = _trials(folder, rng, encoders, running=until == "trials")
    if until == "end":
        best = _leaderboard(folder, rng, labels, targets, trials, encoders)
        _predictions(folder, rng, labels, targets, best)
    return str(folder)


def _config(folder: Path, encoders: dict[str, float]) -> None:
    sweep = config.SweepConfig(encoders=tuple(encoders), top=TOP)
    branch = {"family": "clip", "checkpoint": "embedded:tiny", "revision": "4f1c9a2be07d55e1", "width": 64}
    specs = [
        {"name": n, "text": None if n.endswith(":image") else branch, "image": None if n.endswith(":text") else branch}
        for n in encoders
    ]
    content = {
        "config": config.to_dict(sweep),
        "encoders": specs,
        "versions": {"emo": "0.1.0", "ray": "2.60.0", "torch": "2.13.0"},
    }
    (folder / "config.json").write_text(
        json.dumps(content | {"started": "2026-11-20T15:04:00+00:00", "plan": {"num_workers": 2}})
    )


def _posts(folder: Path, labels: list[str], targets: dict[str, np.ndarray]) -> None:
    splits = {s: {"num_posts": len(t), "positives": [int(n) for n in t.sum(axis=0)]} for s, t in targets.items()}
    reasons = {"image cannot be read": 7, "empty post": 4, "<b>odd</b> reason": 1}
    content = {
        "kind": "posts",
        "data": "data-1",
        "rejects": "rejects-1",
        "source": "embedded corpus",
        "labels": labels,
        "label_threshold": 0.5,
        "num_read": 912,
        "num_posts": 900,
        "num_rejects": 12,
        "reject_reasons": reasons,
        "num_redecoded_texts": 0,
        "modalities": {"text": 880, "image": 850, "tags": 410},
        "splits": splits | {"unlabelled": {"num_posts": 0, "positives": [0] * len(labels)}},
        "splits_made": True,
        "num_duplicates_across_splits": 0,
        "warnings": ["fear has only 13 positive test posts."],
        "config": {},
        "fingerprint": "abc",
    }
    (folder / "posts.json").write_text(json.dumps(content))


def _trials(folder: Path, rng: np.random.Generator, encoders: dict[str, float], running: bool) -> pd.DataFrame:
    rows = [
        _trial(rng, name, skill, i)
        for name, skill in encoders.items()
        for i in range(5 if name == "tiny-clip:image" else 16)
    ]
    rows[3] |= {"status": "failed", "error": "ValueError: loss is <NaN>", "history": None, "best_epoch": None} | {
        f"val/{m}": None for m in METRICS
    }
    if running:
        rows[-1] |= {"status": "running", "history": None, "best_epoch": None} | {f"val/{m}": None for m in METRICS}
    trials = pd.DataFrame(rows)
    trials.to_parquet(folder / "trials.parquet")
    return trials


def _trial(rng: np.random.Generator, encoder: str, skill: float, index: int) -> dict[str, Any]:
    lr, epochs = float(10 ** rng.uniform(-5, -2)), int(rng.integers(8, 20))
    score = 0.22 + 0.25 * skill - 0.05 * (np.log10(lr) + 2.8) ** 2 + rng.normal() * 0.01
    steps = np.arange(1, epochs + 1)
    train, val = 0.3 + 0.35 * np.exp(-steps / 4), 0.38 + 0.3 * np.exp(-steps / 3) + 0.004 * np.maximum(0, steps - 7)
    f1 = score * (1 - np.exp(-steps / 3))
    keys = ("epoch", "train_loss", "val_loss", "val_macro_f1")
    history = [
        dict(zip(keys, (int(e), float(t), float(v), float(f)), strict=True))
        for e, t, v, f in zip(steps, train, val, f1, strict=True)
    ]
    return {
        "trial_id": f"{re.sub('[^a-z-]', '-', encoder)}-{index:03}",
        "encoder": encoder,
        "phase": "search",
        "status": "done",
        "error": None,
        "batch_size": int(rng.choice([8, 16, 32])),
        "lr": lr,
        "dropout": float(rng.uniform(0, 0.5)),
        "num_layers": int(rng.integers(1, 4)),
        "hidden": int(rng.choice([128, 256, 512])),
        "warmup_steps": int(rng.integers(0, 201)),
        **_scores("val", score),
        "num_epochs": epochs,
        "best_epoch": 7,
        "train_seconds": 1.2,
        "history": json.dumps(history),
    }


def _scores(split: str, macro: float) -> dict[str, float]:
    values = (macro, macro + 0.12, macro + 0.09, macro * 0.6, macro * 0.9, 0.3 - macro / 3)
    return {f"{split}/{metric}": float(value) for metric, value in zip(METRICS, values, strict=True)}


def _leaderboard(
    folder: Path,
    rng: np.random.Generator,
    labels: list[str],
    targets: dict[str, np.ndarray],
    trials: pd.DataFrame,
    encoders: dict[str, float],
) -> dict[str, Any]:
    kept = trials[trials["status"] == "done"].sort_values("val/macro_f1", ascending=False).groupby("encoder").head(TOP)
    ruled = [
        _rule(rng, labels, row, rank, rule)
        for _, g in kept.groupby("encoder")
        for rank, row in enumerate(report_run.records(g), 1)
        for rule in GAINS
    ]
    table = pd.DataFrame(ruled)
    table.to_parquet(folder / "calibration.parquet")
    _probabilities(labels, table).to_parquet(folder / "probabilities.parquet")
    chosen = table[table["chosen"]]
    rows = [_encoder_row(labels, name, chosen[chosen["encoder"] == name]) for name in encoders]
    always = 2 * targets["test"].mean(axis=0) / (1 + targets["test"].mean(axis=0))
    rows += [
        _baseline("all-positive", "-", labels, always),
        _baseline("prior", "-", labels, always * 0.3),
        _baseline("tf-idf + logistic regression", "tf-idf", labels, always + 0.08),
    ]
    rows.sort(key=lambda row: -row["val/macro_f1"])
    for row in rows:
        row["intervals"] = {
            m: [row[m] - 0.021, row[m] + 0.023] for m in ("val/macro_f1", *(f"test/{m}" for m in METRICS))
        }
    pairs = [_pair(upper, lower, place) for place, (upper, lower) in enumerate(itertools.pairwise(rows))]
    winner = table[(table["encoder"] == next(iter(encoders))) & (table["rank"] == 1) & table["chosen"]].iloc[0]
    best = {
        "trial_id": winner["trial_id"],
        "encoder": winner["encoder"],
        "rule": winner["rule"],
        "thresholds": list(winner["thresholds"]),
    }
    (folder / "leaderboard.json").write_text(
        json.dumps(
            {"labels": labels, "num_test": SPLITS["test"], "best": best}
            | {"rows": rows, "num_resamples": 1000, "comparisons": pairs}
        )
    )
    looks = [{"time": "2026-11-20T16:00:00Z", "job": job, "num_models": 14} for job in ("sweep", "calibrate")]
    (folder / "test_looks.json").write_text(json.dumps(looks))
    return best


def _pair(upper: dict[str, Any], lower: dict[str, Any], place: int) -> dict[str, Any]:
    """The first two pairs are told apart, once either way."""
    difference, better = 0.05, (upper["name"], lower["name"], None)[min(place, 2)]
    interval = [[0.01, 0.09], [-0.08, -0.02], [-0.01, 0.11]][min(place, 2)]
    about = {"upper": upper["name"], "lower": lower["name"], "difference": -difference if place == 1 else difference}
    return about | {"interval": interval, "share_higher": 0.1 if place == 1 else 0.9, "better": better}


def _rule(rng: np.random.Generator, labels: list[str], trial: dict[str, Any], rank: int, rule: str) -> dict[str, Any]:
    macro = trial["val/macro_f1"] + GAINS[rule]
    per_label = {
        f"{s}/f1/{label}": float(np.clip(macro + rng.normal() * 0.1, 0, 1)) for s in SPLITS for label in labels
    }
    scores = _scores("train", macro + 0.2) | _scores("val", macro) | _scores("test", macro - 0.03)
    thresholds = [0.5] * len(labels) if rule == "fixed" else [float(x) for x in rng.uniform(0.15, 0.5, len(labels))]
    return (
        {
            "trial_id": trial["trial_id"],
            "encoder": trial["encoder"],
            "rank": rank,
            "rule": rule,
            "thresholds": thresholds,
            "chosen": rule == "exact",
        }
        | scores
        | per_label
    )


def _probabilities(labels: list[str], calibrated: pd.DataFrame) -> pd.DataFrame:
    """Every model three times too sure of itself, which a temperature mends, and curves a little."""
    ways = {
        "raw": (calibration.RAW, 0.12),
        "temperature": (calibration.Calibrator(temperature=3.0), 0.02),
        "isotonic": (calibration.Calibrator(curves=(np.array([[0.0, 1.0], [0.1, 0.9]]),) * len(labels)), 0.05),
    }
    of_labels = [f"/{label}" for label in labels]
    rows = [
        {"trial_id": trial, "encoder": encoder, "probabilities": kind, "fitted_on": "held-out train"}
        | {"calibrator": json.dumps(calibration.to_json(calibrator)), "test/log_loss": 4 * error}
        | {f"test/{measure}{label}": error for measure in ("ece", "brier") for label in ["", *of_labels]}
        for trial, encoder in calibrated[["trial_id", "encoder"]].drop_duplicates().itertuples(index=False)
        for kind, (calibrator, error) in ways.items()
    ]
    return pd.DataFrame(rows)


def _encoder_row(labels: list[str], name: str, chosen: pd.DataFrame) -> dict[str, Any]:
    columns = ["val/macro_f1", *(f"test/{m}" for m in METRICS), *(f"test/f1/{label}" for label in labels)]
    modalities = {"text": "text", "image": "image"}.get(name.partition(":")[2], "text+image")
    row: dict[str, Any] = {"name": name, "kind": "encoder", "modalities": modalities, "num_models": len(chosen)} | {
        c: float(chosen[c].mean()) for c in columns
    }
    macro = row["test/macro_f1"]
    return row | {
        "test/macro_f1_sd": 0.011,
        "test/fixed_macro_f1": macro - 0.07,
        "test/optuna_macro_f1": macro - 0.01,
        "test/exact_macro_f1": macro,
    }


def _baseline(name: str, modalities: str, labels: list[str], f1: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "kind": "baseline",
        "modalities": modalities,
        "num_models": 1,
        "val/macro_f1": float(f1.mean()),
    } | _scores("test", float(f1.mean()))
    row |= {f"test/f1/{label}": float(value) for label, value in zip(labels, f1, strict=True)}
    return row | {
        "test/macro_f1_sd": None,
        "test/fixed_macro_f1": 0.2,
        "test/optuna_macro_f1": None,
        "test/exact_macro_f1": None,
    }


def _predictions(
    folder: Path, rng: np.random.Generator, labels: list[str], targets: dict[str, np.ndarray], best: dict[str, Any]
) -> None:
    probs = {s: 1 / (1 + np.exp(-(2.4 * t - 1.6 + rng.normal(size=t.shape)))) for s, t in targets.items()}
    rows = [
        {"post_id": f"{s}-{i}", "split": s, "targets": t, "probs": p}
        for s in targets
        for i, (t, p) in enumerate(zip(targets[s], probs[s], strict=True))
    ]
    (folder / "predictions").mkdir()
    pd.DataFrame(rows).to_parquet(folder / "predictions" / f"{best['trial_id']}.parquet")
    texts = [
        "What a day at the beach, could not stop smiling",
        None,
        "They cancelled it AGAIN. <script>alert('x')</script> & no word of sorry",
        "Tomorrow it begins: new city, new job",
    ]
    examples = []
    for i in range(12):
        predicted = [label for label, p, t in zip(labels, probs["test"][i], best["thresholds"], strict=True) if p >= t]
        gold = predicted if i < 6 else [label for label, t in zip(labels, targets["test"][i], strict=True) if t >= 0.5]
        picture = None if i % 4 == 3 else b"broken" if i == 2 else _picture(i)
        examples.append(
            {
                "post_id": f"test-{i}",
                "text": texts[i % 4],
                "image": picture,
                "tags": ["summer", "sun<set>"] if i % 2 else None,
                "targets": targets["test"][i],
                "probs": probs["test"][i],
                "predicted": predicted,
                "gold": gold,
                "correct": set(gold) == set(predicted),
            }
        )
    pd.DataFrame(examples).to_parquet(folder / "examples.parquet")


def _picture(seed: int) -> bytes:
    x, y = np.meshgrid(np.linspace(0, 1, 384), np.linspace(0, 1, 384))
    pixels = np.stack([x * 255, (seed * 20 + y * 120) % 255, (1 - y) * 220], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A finished run and its page."""
    run = synthetic_run(tmp_path_factory.mktemp("run"))
    return run, storage.read_bytes(report.write_report(run)).decode()


def test_page_is_self_contained(finished: tuple[str, str]) -> None:
    run, page = finished
    assert page.startswith("<!DOCTYPE html>")
    assert set(re.findall(r'(?:src|href)="(data:image/\w+;|#|[^"]*)', page)) <= {
        "data:image/png;",
        "data:image/jpeg;",
        "#",
    }
    assert "<script" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert page.count("<img") == page.count('alt="')
    drawn = {path.name for path in Path(run, "figures").iterdir()}
    assert drawn == {
        f"{n}.png"
        for n in ("scores", "precision_recall", "reliability", "learning_curves", "importances", "learning_rates")
    }
    assert all(Image.open(Path(run, "figures", name)).size[0] == figures.WIDTH * figures.DPI for name in drawn)


def test_page_tells_outcome_and_counts(finished: tuple[str, str]) -> None:
    run, page = finished
    rows = {row["name"]: row for row in storage.read_json(f"{run}/leaderboard.json")["rows"]}
    best, always, words = rows["tiny-clip"], rows["all-positive"], rows["tf-idf + logistic regression"]
    sentence = f"tiny-clip reaches a macro F1 of {best['test/macro_f1']:.3f} ± 0.011 on 225 test posts, against"
    assert (
        f"{sentence} {always['test/macro_f1']:.3f} for all-positive and {words['test/macro_f1']:.3f} for tf-idf" in page
    )
    assert "900 of 912" in page
    assert "12 set aside" in page
    assert "image cannot be read" in page
    assert "fear has only 13 positive test posts." in page
    assert "4f1c9a2be07d55e1" in page
    assert "ValueError: loss is &lt;NaN&gt;" in page
    assert f"--model {run}/model" in page
    assert "torch 2.13.0" in page
    assert "not finished" not in page


def test_page_tells_what_the_run_took_beside_the_estimate(finished: tuple[str, str]) -> None:
    _, page = finished
    section = page[page.index('id="cost"') : page.index('id="use"')]
    rows = re.findall(r'<th scope="row">([^<]+)</th>' + r"<td>([^<]+)</td>" * 4, section)
    assert {name: values for name, *values in rows} == {
        "Wall time": ["10 min 00 s", "9 min 00 s", "8 min 20 s (6 min 40 s to 10 min 25 s)", "yes"],
        "Core-hours": ["1", "1", "1.11 (0.889 to 1.39)", "yes"],
        "GPU-hours": ["0.25", "0.25", "0.278 (0.222 to 0.347)", "yes"],
        "Node-hours, head": ["0.167", "0.15", "0.139 (0.111 to 0.174)", "yes"],
        "Node-hours, gpu-small-spot": ["0.25", "0.25", "0.278 (0.222 to 0.347)", "yes"],
        "Money": ["0.83 EUR", "0.80 EUR", "0.83 EUR (0.67 EUR to 1.04 EUR)", "yes"],
    }
    assert "50 % of the core-hours were in use" in section
    assert "prices of 2026-11-01: &lt;our&gt; contract" in section
    assert "estimate: six trials" in section


def test_a_run_without_a_count_says_so(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run")
    storage.remove(f"{run}/cost.json")
    page = storage.read_bytes(report.write_report(run)).decode()
    assert "Nothing was counted in this run." in page


def test_leaderboard_keeps_order_and_marks_baselines(finished: tuple[str, str]) -> None:
    run, page = finished
    board = page[page.index('id="leaderboard"') : page.index('id="labels"')]
    rows = storage.read_json(f"{run}/leaderboard.json")["rows"]
    shown = re.findall(r'<tr class="(\w+)(?: best)?"><th scope="row">([^<]+)</th>', board)
    assert shown == [(row["kind"], row["name"]) for row in rows]
    assert board.count('class="encoder best"') == 1


def test_leaderboard_says_how_sure_it_is(finished: tuple[str, str]) -> None:
    run, page = finished
    board = page[page.index('id="leaderboard"') : page.index('id="labels"')]
    rows = storage.read_json(f"{run}/leaderboard.json")["rows"]
    best = rows[0]["test/macro_f1"]
    assert f"<small>{best - 0.021:.3f} to {best + 0.023:.3f}</small>" in board
    assert board.count("<small>") >= 7 * len(rows)  # every figure but that at 0.5, and each pair
    assert board.count(" ▲</strong>") == board.count(" ▼</strong>") == 1
    first, second, third = (row["name"] for row in rows[:3])
    assert f"tell 2 of {len(rows) - 1} pairs of neighbours apart" in board
    assert f"{first} is better than {second} by 0.050 (0.010 to 0.090; higher in 90.0 % of the resamples)" in board
    assert f"{third} is better than {second} by 0.050 (0.020 to 0.080; higher in 90.0 %" in board
    assert "not corrected for being several" in board
    assert "test was read twice (2026-11-20 16:00:00Z sweep, 14 models; 2026-11-20 16:00:00Z calibrate" in page


def test_older_leaderboards_have_no_intervals(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run")
    board = storage.read_json(f"{run}/leaderboard.json")
    for row in board["rows"]:
        del row["intervals"]
    storage.write_json(
        f"{run}/leaderboard.json", {name: board[name] for name in ("labels", "num_test", "best", "rows")}
    )
    Path(run, "test_looks.json").unlink()
    page = _page(run)
    assert "All choices were made on val." in page
    assert "neighbours" not in page


def test_user_text_is_escaped(finished: tuple[str, str]) -> None:
    _, page = finished
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; no word" in page
    assert "&lt;b&gt;odd&lt;/b&gt; reason" in page
    assert "#sun&lt;set&gt;" in page


def test_example_cards_bear_right_and_wrong(finished: tuple[str, str]) -> None:
    run, page = finished
    cards = report.cards(report_run.read_run(run))
    assert [card["id"] for card in cards[report.RIGHT]][:6] == [f"test-{i}" for i in range(6)]
    assert cards[report.WRONG]
    assert cards[report.RIGHT][2]["image"] is None  # its bytes are no picture
    assert {card["id"] for group in cards.values() for card in group} == {f"test-{i}" for i in range(12)}
    assert all({*c["gold"], *c["predicted"]} <= {name for name, _ in c["bars"]} for g in cards.values() for c in g)
    assert page.count("<article") == 12
    assert page.count('<p class="empty">no text</p>') == 3
    assert page.count("#summer") == 6


def test_per_label_table_has_the_papers_form(finished: tuple[str, str]) -> None:
    run = report_run.read_run(finished[0])
    table = report_tables.per_label(run)
    assert table is not None
    assert run.posts is not None
    assert [column["kind"] for column in table["columns"]] == ["encoder"] * 5 + ["baseline"] * 3
    lines = {line["name"]: line for line in table["lines"]}
    assert list(lines) == [*(label.capitalize() for label in LABELS), "Macro avg", "Micro avg"]
    supports = [float(lines[label.capitalize()]["support"].removesuffix(" %")) for label in LABELS]
    assert sum(supports) == pytest.approx(100, abs=0.05)
    assert lines["Macro avg"]["support"] == str(sum(run.posts["splits"]["test"]["positives"]))
    values = [row["test/f1/joy"] for row in table["columns"]]
    assert lines["Joy"]["cells"] == [(f"{v:.2f}", f"{v:.2f}" == f"{max(values):.2f}") for v in values]


def test_published_numbers_only_beside_the_same_labels(finished: tuple[str, str], tmp_path: Path) -> None:
    assert "another corpus, shown for orientation" in finished[1]
    other = synthetic_run(tmp_path / "other", labels=[f"label {k}" for k in range(15)])
    page = _page(other)
    assert "MM-Emo" not in page
    assert "The 12 most frequent of 15 labels." in page
    assert len(report_tables.operating_points(report_run.read_run(other))) == 12


def test_published_table_agrees_with_its_own_averages() -> None:
    supports = [values[0] for values in report_tables.PUBLISHED["rows"].values()]
    columns = list(zip(*(values[1:] for values in report_tables.PUBLISHED["rows"].values()), strict=True))
    assert sum(supports) == pytest.approx(100, abs=0.01)
    assert [np.mean(c) for c in columns] == pytest.approx(report_tables.PUBLISHED["averages"]["Macro avg"], abs=0.008)


def test_threshold_table_reports_the_gain_of_the_chosen_rule(finished: tuple[str, str]) -> None:
    lines = {line["encoder"]: line for line in report_calibration.encoders(report_run.read_run(finished[0]))}
    assert list(lines) == list(ENCODERS)
    line = lines["tiny-bert"]
    assert line["gain"] == pytest.approx(0.07)
    assert line["chosen"] == f"Exact on train {TOP}"
    assert np.diff(line["test"]) == pytest.approx(np.diff(list(GAINS.values())))


def test_rules_are_compared_on_val_and_test_over_all_models(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run")
    table = pd.read_parquet(f"{run}/calibration.parquet")
    first = table["trial_id"] == table["trial_id"].iloc[0]
    table.loc[first & (table["rule"] == "cross-fitted"), "test/macro_f1"] = 0.99
    table.to_parquet(f"{run}/calibration.parquet")
    lines = {line["rule"]: line for line in report_calibration.rules(report_run.read_run(run))}
    assert list(lines) == list(report_calibration.RULES.values())
    num_models = TOP * len(ENCODERS)
    exact, cross_fitted = lines["Exact on train"], lines["Cross-fitted"]
    assert (exact["num_models"], exact["chosen"], exact["best"]) == (num_models, num_models, num_models - 1)
    assert (cross_fitted["chosen"], cross_fitted["best"]) == (0, 1)
    assert exact["gap"] == pytest.approx(0.03)
    assert exact["val"] == pytest.approx(table[table["rule"] == "exact"]["val/macro_f1"].mean())


def test_labels_before_and_after_their_thresholds(finished: tuple[str, str]) -> None:
    run = report_run.read_run(finished[0])
    lines = {line["label"]: line for line in report_calibration.labels(run)}
    assert list(lines) == LABELS
    best = run.leaderboard["best"]
    rows = run.calibration[run.calibration["trial_id"] == best["trial_id"]].set_index("rule")
    line = lines["joy"]
    before, after = rows.loc["fixed", "test/f1/joy"], rows.loc[best["rule"], "test/f1/joy"]
    assert (line["before"], line["after"], line["gain"]) == (before, after, pytest.approx(after - before))
    assert line["threshold"] == best["thresholds"][LABELS.index("joy")]
    assert line["positives"] == run.posts["splits"]["train"]["positives"][LABELS.index("joy")]
    assert line["written"] is None
    run.config["config"]["probabilities"] = "temperature"
    moved = calibration.Calibrator(temperature=3.0).thresholds(np.array(best["thresholds"]))
    assert [line["written"] for line in report_calibration.labels(run)] == pytest.approx(list(moved))
    assert "On temperature-scaled probabilities" in report.page(run, {})


def test_probabilities_are_compared_raw_and_calibrated(finished: tuple[str, str]) -> None:
    run, page = report_run.read_run(finished[0]), finished[1]
    table = report_calibration.probabilities(run)
    assert table["kinds"] == ["Raw", "Temperature", "Isotonic"]
    assert [line["name"] for line in table["lines"]] == ["All labels", "All labels, mean of 15 models", *LABELS]
    errors = [(0.12, False), (0.02, True), (0.05, False)]
    assert all(line["cells"] == [pytest.approx(error) for error in errors * 2] for line in table["lines"])
    assert "The temperature of the best model is 3.00." in page
    assert "writes raw probabilities" in page
    everything, first, *_ = report_calibration.reliability(run)
    test = run.predictions[run.predictions["split"] == "test"]
    targets, probs = (np.stack(test[name].to_list()) for name in ("targets", "probs"))
    cooled = calibration.Calibrator(temperature=3.0).apply(probs)
    np.testing.assert_allclose(everything.bins["Temperature"].prob, binned(targets, cooled).prob)
    assert first.title == f"joy  (n = {int(targets[:, LABELS.index('joy')].sum())})"
    assert first.bins["Raw"].count.sum() == len(test)


def test_operating_point_is_the_thresholds() -> None:
    gold, probs = np.array([True, True, False, False, True]), np.array([0.9, 0.4, 0.6, 0.1, 0.2])
    curve = figures.curve("joy", gold, probs, probs >= 0.4, 0.4)  # 3 predicted, 2 of them right
    assert curve.point == pytest.approx((2 / 3, 2 / 3))
    assert curve.f1 == pytest.approx(2 / 3)
    assert figures.curve("joy", np.zeros(5, bool), probs, probs >= 0.4, 0.4).recall.size == 0


def test_importance_finds_the_parameter_that_matters(finished: tuple[str, str]) -> None:
    run = report_run.read_run(finished[0])
    shares = report_tables.importances(run)
    assert [name.split()[0] for name in shares] == ["tiny-clip", "tiny-bert", "tiny-clip:text", "tiny-siglip"]
    assert all(sum(share.values()) == pytest.approx(1) for share in shares.values())
    assert np.mean([share["lr"] for share in shares.values()]) > 0.5  # the synthetic score follows the learning rate
    assert report_tables.unexplained(run) == ["tiny-clip:image has 5 finished trials; importance needs at least 8."]


def test_losses_and_fusions_are_compared_where_several_were_tried(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", until="trials")
    trials = pd.read_parquet(f"{run}/trials.parquet")
    at = np.arange(len(trials))
    is_clip = trials["encoder"] == "tiny-clip"
    trials["loss"] = np.where(at % 2, "focal", "bce")
    trials["fusion"] = np.where(is_clip, np.where(at % 3, "gated", "concat"), None)
    trials["encoder_lr"] = np.where(is_clip, 1e-6 * (1 + at), np.nan)
    trials.to_parquet(f"{run}/trials.parquet")
    content = json.loads(Path(run, "config.json").read_text())
    content["config"]["space"] |= {"loss": ["bce", "focal"], "fusion": ["concat", "gated"]}
    Path(run, "config.json").write_text(json.dumps(content))
    content = report_run.read_run(run)
    shares = {name.split()[0]: set(share) for name, share in report_tables.importances(content).items()}
    assert shares["tiny-clip"] - shares["tiny-bert"] == {"fusion", "encoder_lr"}
    assert "loss" in shares["tiny-bert"]
    found = {(row["encoder"], row["option"]): row for row in report_tables.choices(content)}
    assert {option for name, option in found if name == "tiny-clip"} == {
        "loss bce",
        "loss focal",
        "fusion concat",
        "fusion gated",
    }
    done = trials[(trials["encoder"] == "tiny-bert") & (trials["loss"] == "focal") & (trials["status"] == "done")]
    row = found["tiny-bert", "loss focal"]
    assert (row["num_trials"], row["best"]) == (len(done), done["val/macro_f1"].max())
    assert "loss focal" in _page(run)
    assert "tiny-clip, encoder's" in {axes.get_title("left") for axes in report.draw(content)["learning_rates"][0].axes}


def test_one_label_a_post_is_the_likeliest_by_its_threshold(tmp_path: Path) -> None:
    run = report_run.read_run(synthetic_run(tmp_path / "run"))
    several = report_tables.operating_points(run)
    run.config["config"]["space"]["loss"] = ["softmax"]
    ones = report_tables.operating_points(run)
    test = run.predictions[run.predictions["split"] == "test"]
    predicted = sum(round(c.point[0] * c.num_positives / c.point[1]) for c in ones if c.point[1])
    assert predicted <= len(test) < sum(round(c.point[0] * c.num_positives / c.point[1]) for c in several if c.point[1])


def test_constant_scores_have_no_importance(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", until="trials")
    trials = pd.read_parquet(f"{run}/trials.parquet")
    trials["val/macro_f1"] = trials["val/macro_f1"].where(trials["encoder"] != "tiny-bert", 0.3)
    trials.to_parquet(f"{run}/trials.parquet")
    assert "All trials of tiny-bert have the same val macro F1, so nothing explains it." in _page(run)


def test_running_sweep_shows_what_there_is(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", until="trials")
    page = _page(run)
    assert "This run is not finished." in page
    assert "67 of 88 planned trials are done, 1 running, 1 failed" in page
    assert "the leaderboard with the test scores" in page
    assert "There is no result yet" in page
    assert "best trial so far" in page
    assert "tiny-siglip" in page
    assert set(report.draw(report_run.read_run(run))) == {
        "learning_curves",
        "importances",
        "learning_rates",
    }


@pytest.mark.parametrize(
    "missing",
    [
        "trials.parquet",
        "calibration.parquet",
        "probabilities.parquet",
        "leaderboard.json",
        "examples.parquet",
        "posts.json",
        "predictions",
    ],
)
def test_any_result_may_be_missing(tmp_path: Path, missing: str) -> None:
    run = synthetic_run(tmp_path / "run")
    path = Path(run, missing)
    for file in path.iterdir() if path.is_dir() else [path]:
        file.unlink()
    assert "Leaderboard" in _page(run)


def test_run_without_a_finished_trial(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", until="trials")
    trials = pd.read_parquet(f"{run}/trials.parquet").head(2)
    trials[["status", "history", "best_epoch", "val/macro_f1"]] = ["failed", None, None, None]
    trials.to_parquet(f"{run}/trials.parquet")
    assert "No trial is finished yet." in _page(run)


def test_odd_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", labels=["$joy$", "a_b^c$", "<i>"], name="hf:org/big_$model$")
    page = storage.read_bytes(report.write_report(run)).decode()
    assert "hf:org/big_$model$ reaches a macro F1" in page
    assert "<i> " not in page


def test_losing_to_a_baseline_is_said(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run")
    board = storage.read_json(f"{run}/leaderboard.json")
    next(row for row in board["rows"] if row["name"] == "all-positive")["test/macro_f1"] = 0.9
    storage.write_json(f"{run}/leaderboard.json", board)
    assert "tiny-clip, which the chosen model builds on, is no better on test than all-positive." in _page(run)


def test_report_on_another_store(tmp_path: Path) -> None:
    local = synthetic_run(tmp_path / "run", until="trials")
    fs, _ = storage.filesystem("memory://")
    fs.put(local, "/runs/one", recursive=True)
    assert report.write_report("memory://runs/one/") == "memory://runs/one/report.html"
    assert b"tiny-clip" in storage.read_bytes("memory://runs/one/report.html")
    assert storage.exists("memory://runs/one/figures/learning_curves.png")


def test_prevalence_counts_the_posts_that_know_the_label(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", until="trials")
    assert "Annotators disagree" not in _page(run)  # a run of one corpus without votes
    split = {"num_posts": 400, "positives": [30, 0, 0], "known": [120, 400, 0]}
    posts = {
        **storage.read_json(f"{run}/posts.json"),
        "labels": ["joy", "fear", "awe"],
        "disagreement": [0.25, None, 0.0],
        "corpora": [
            {"name": "tweets & co", "num_posts": 300, "labels": ["joy", "fear"]},
            {"name": "mine", "num_posts": 100, "labels": None},
        ],
        "folds": [{"num_posts": 200, "positives": [20, 0, 0]}] * 5,
    }
    posts["splits"] = dict.fromkeys(("train", "val"), split) | {
        "test": {"num_posts": 40, "positives": [10, 0, 0]},
        "unlabelled": {"num_posts": 0, "positives": [0, 0, 0]},
    }
    rows = {row["label"]: row for row in report_posts.prevalences(posts)}
    assert rows["joy"]["shares"] == [{"share": 0.25, "count": 30, "known": 120}] * 2 + [
        {"share": 0.25, "count": 10, "known": None}
    ]
    assert [part["share"] for part in rows["awe"]["shares"]] == [None, None, 0]
    assert [row["disagreement"] for row in rows.values()] == [0.25, None, 0.0]
    storage.write_json(f"{run}/posts.json", posts)
    page = _page(run)
    assert "25.0 % <small>(30 of 120)</small>" in page
    assert "25.0 % <small>(10)</small>" in page
    assert page.count("10.0 % <small>(20)</small>") == 5
    assert "Annotators disagree" in page
    assert '<th scope="row">tweets &amp; co</th><td>300</td><td class="word">joy, fear</td>' in page
    assert "those that its posts have" in page


def test_posts_tables_of_older_runs_are_left_out() -> None:
    posts = {"labels": ["joy"], "splits": {name: {"num_posts": 0, "positives": [0]} for name in config.SPLITS}}
    assert report_posts.prevalences(posts) == [
        {"label": "joy", "shares": [{"share": None, "count": 0, "known": None}] * 3, "disagreement": None}
    ]
    assert report_posts.prevalences(None) == report_posts.fold_prevalences(None) == report_posts.corpora(None) == []
    assert report_posts.fold_prevalences(posts) == report_posts.corpora(posts) == []
    assert report_posts.corpora({"corpora": [{"name": "alone", "num_posts": 1, "labels": None}]}) == []


def test_when_a_label_is_positive_in_words() -> None:
    rules = {
        targets: report_posts.positive_rule({"targets": targets, "label_threshold": 0.6})
        for targets in ("threshold", "majority", "any")
    }
    assert "at least 60 % of the annotators" in rules["threshold"]
    assert "more than half" in rules["majority"]
    assert "any annotator" in rules["any"]
    assert report_posts.positive_rule({"label_threshold": 0.5}) == rules["threshold"].replace("60", "50")


def test_curves_leave_out_unknown_targets(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run")
    file = next(Path(run, "predictions").iterdir())
    whole = {curve.label: curve for curve in report_tables.operating_points(report_run.read_run(run))}
    table = pd.read_parquet(file)
    test = table["split"] == "test"
    hidden = [np.where(np.arange(len(LABELS)) == 4, -1, t) for t in table.loc[test, "targets"].iloc[:100]]
    kept = table[test].iloc[100:]
    table.loc[test, "targets"] = pd.Series([*hidden, *kept["targets"]], index=table.index[test])
    table.to_parquet(file)
    curves = {curve.label: curve for curve in report_tables.operating_points(report_run.read_run(run))}
    gold, probs = (np.stack(kept[name].to_list())[:, 4] for name in ("targets", "probs"))
    at = curves["joy"].threshold
    expected = figures.curve("joy", gold > 0, probs, probs >= at, at)
    assert curves["joy"].average_precision == pytest.approx(expected.average_precision)
    assert (curves["joy"].prevalence, curves["joy"].point) == (expected.prevalence, expected.point)
    assert curves["fear"].point == whole["fear"].point


def test_no_run_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(config.UserError, match=r"is no run folder, since it has no config.json"):
        report.write_report(str(tmp_path))


def _page(run: str) -> str:
    """The page, with figures drawn yet not painted, which takes most of the time."""
    content = report_run.read_run(run)
    return report.page(content, {name: {"src": "", "alt": alt} for name, (_, alt) in report.draw(content).items()})
