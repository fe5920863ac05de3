"""Our own metrics, as Prometheus reads them from the node."""

import os
import pickle
import time
import urllib.request
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from corpora import prepare_files, write_posts
from prometheus_client.parser import text_string_to_metric_families

from emo.config import PrepareConfig
from emo.cost.meter import Meter
from emo.cost.prices import LOCAL, NodeType, Prices
from emo.encoders import Branch
from emo.encoders.hub import resolve
from emo.features import embed
from emo.monitoring import METRICS, SweepMetrics, metrics_address, run_name
from emo.reading import TextVariant

MAX_SECONDS = 30
REPORT_SECONDS = int(os.environ["RAY_metrics_report_interval_ms"]) / 1000  # noqa: SIM112, as Ray spells it


def served() -> dict[str, list[tuple[dict[str, str], float]]]:
    """Name -> labels and value of everything that the node serves."""
    with urllib.request.urlopen(metrics_address(), timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        found.setdefault(sample.name.removeprefix("ray_"), []).append((sample.labels, sample.value))
    return found


def total(found: dict, name: str, **labels: str) -> float | None:
    """The sum over the processes that set a metric with these labels; None where none did."""
    values = [value for has, value in found.get(name, []) if has.items() >= labels.items()]
    return sum(values) if values else None


def test_a_node_serves_what_sweeps_and_posts_have_come_to(ray_session, tmp_path):
    raw = write_posts(tmp_path / "raw", 12)
    with raw.open("a") as file:
        file.write('{"id": "empty"}\n')
    time.sleep(2 * REPORT_SECONDS)  # what other tests have counted is told by then
    before = served()
    prepare_files(raw, tmp_path / "posts", PrepareConfig(labels="auto", image_size=32))
    branch = resolve(
        Branch(modality="text", family="bert", checkpoint=str(write_checkpoint("bert", tmp_path / "bert")))
    )
    embed(str(tmp_path / "posts"), branch, str(tmp_path / "cache"), text=TextVariant("append"))
    metrics = pickle.loads(pickle.dumps(SweepMetrics("s3://bucket/runs/one/", ["bert", "clip:text"])))
    metrics.update({"bert": {"done": 3}}, {}, 10)
    metrics.update(
        {"bert": {"done": 4, "failed": 1}, "clip:text": {"running": 2}}, {"bert": 0.5, "clip:text": None}, 10
    )
    with Meter(Prices("EUR", "today", "a guess", {LOCAL: NodeType(3600.0, 2, 0)})) as meter:
        meter.keep_in(str(tmp_path / "one"))
    hours = meter.usage.seconds / 3600
    wanted = {
        ("emo_cost", (("currency", "EUR"),)): pytest.approx(3600 * hours),
        ("emo_node_hours", (("node_type", LOCAL),)): pytest.approx(hours),
        ("emo_trials_planned", ()): 10,
        ("emo_trials", (("encoder", "bert"), ("status", "done"))): 4,
        ("emo_trials", (("encoder", "bert"), ("status", "failed"))): 1,
        ("emo_trials", (("encoder", "bert"), ("status", "running"))): 0,
        ("emo_trials", (("encoder", "clip:text"), ("status", "running"))): 2,
        ("emo_best_val_macro_f1", (("encoder", "bert"),)): 0.5,
        ("emo_best_val_macro_f1", (("encoder", "clip:text"),)): None,
    }
    posts = {"emo_posts_read_total": 13, "emo_posts_prepared_total": 12, "emo_posts_rejected_total": 1}
    deadline = time.monotonic() + MAX_SECONDS
    while total(found := served(), "emo_trials_planned", run="one") is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert {key: total(found, key[0], run="one", **dict(key[1])) for key in wanted} == wanted
    assert {name: total(found, name) - (total(before, name) or 0) for name in posts} == posts
    assert total(found, "emo_posts_embedded_total", checkpoint=branch.checkpoint, modality="text") == 12
    assert {name for name in found if name.startswith("emo_")} == set(METRICS)
    time.sleep(4 * REPORT_SECONDS)  # after half of that Ray forgets what is not set again
    assert {key: total(served(), key[0], run="one", **dict(key[1])) for key in wanted} == wanted


@pytest.mark.parametrize("folder", ["/data/runs/one", "/data/runs/one/", "s3://bucket/runs/one", "runs/one", "one"])
def test_a_run_is_named_by_its_folder(folder):
    assert run_name(folder) == "one"


def test_the_readme_has_every_metric():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    rows = [
        f"| `ray_{name}` | {', '.join(meaning.labels)} | {meaning.description} |" for name, meaning in METRICS.items()
    ]
    assert [row for row in rows if row not in readme] == []
