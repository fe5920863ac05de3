"""infra/monitoring at work: Prometheus scrapes a cluster that grows for a sweep and loses a node meanwhile."""

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoints import write_checkpoint
from corpora import write_posts
from fake_cloud import FakeCloud, fake_cloud, node_type
from kills import kill_tree
from monitored import ALERTS, MONITORING, PANELS, expressions, metric_names
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
from test_autoscaling import num_training, sweep

from cluster.local import free_ports
from emo.monitoring import METRICS
from emo.tables import read_table

pytestmark = pytest.mark.slow

UNSEEN = {
    "ray_node_gpus_utilization": "needs a GPU",
    "ray_node_gram_used": "needs a GPU",
    "ray_node_gram_available": "needs a GPU",
}
"""Metrics that no cluster on one machine without a GPU has, and why."""
POSTS, REJECTS, TRIALS = 60, 12, 6
PER_HOUR = 3600.0
INTERVAL = "2s"
MAX_SECONDS = 300


@dataclass
class Prometheus:
    """A server that runs."""

    address: str
    started: float = field(default_factory=time.time)

    def ask(self, path: str, **parameters: Any) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    def history(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression since the start: labels, and the values in their order."""
        found = self.ask("query_range", query=expression, start=self.started, end=time.time(), step=INTERVAL)["result"]
        return [{"labels": each["metric"], "values": [float(value) for _, value in each["values"]]} for each in found]

    def series(self) -> dict[str, list[dict[str, str]]]:
        """Metric -> the labels of each of its series."""
        found: dict[str, list[dict[str, str]]] = {}
        for labels in self.ask("series", **{"match[]": '{__name__=~".+"}', "start": self.started, "end": time.time()}):
            found.setdefault(labels["__name__"], []).append(labels)
        return found

    def wait_for(self, expression: str) -> None:
        """Until an expression has a value."""
        deadline = time.time() + MAX_SECONDS
        while time.time() < deadline:
            with contextlib.suppress(urllib.error.URLError):  # it may not listen yet
                if self.ask("query", query=expression)["result"]:
                    return
            time.sleep(0.5)
        raise AssertionError(f"{expression} never came")


def configuration(folder: Path, cloud: FakeCloud) -> Path:
    """Ours, with the places of this cluster, and quicker."""
    text = (MONITORING / "prometheus.yml").read_text().replace("10s", INTERVAL)
    for ours, here in {
        "127.0.0.1:8265": cloud.dashboard,
        "/home/ray/.emo/auth_token": cloud.environment["RAY_AUTH_TOKEN_PATH"],
        "[rules.yml]": f"[{MONITORING / 'rules.yml'}]",
    }.items():
        assert text.count(ours) == 1, ours
        text = text.replace(ours, here)
    (folder / "prometheus.yml").write_text(text)
    return folder / "prometheus.yml"


def prices(folder: Path) -> Path:
    """What the cluster's nodes cost an hour."""
    types = {"cpu": {"per_hour": PER_HOUR, "cpus": 1, "gpus": 0}, "head": {"per_hour": 0, "cpus": 0, "gpus": 0}}
    about = {"currency": "EUR", "as_of": "today", "source": "a guess"}
    (folder / "prices.yaml").write_text(yaml.safe_dump(about | {"nodes": types}))
    return folder / "prices.yaml"


def lose_one_that_trains(cloud: FakeCloud) -> bool:
    """Lose a node that has a trial at work, if there is one."""
    if at_work := [node for node in cloud.nodes() if num_training(node)]:
        at_work[0].lose()
    return bool(at_work)


@dataclass(frozen=True)
class Watched:
    """What was watched, and by whom."""

    prometheus: Prometheus
    trials: list[dict]


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Iterator[Watched]:
    """A sweep that has run its trials, and lost one of them with its node on the way."""
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed (apt install prometheus)")
    folder = tmp_path_factory.mktemp("watched")
    with write_posts(folder / "raw", POSTS).open("a") as file:
        file.write('{"id": "empty"}\n' * REJECTS)
    write_checkpoint("bert", folder / "bert")
    (port,) = free_ports(1)
    prometheus = Prometheus(f"127.0.0.1:{port}")
    with fake_cloud(folder, {"cpu": node_type(2, CPU=1)}, idle_seconds=60, dashboard=True) as cloud:
        command = [
            "prometheus",
            f"--config.file={configuration(folder, cloud)}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (folder / "prometheus.log").open("w") as log:
            server = subprocess.Popen([*command, f"--storage.tsdb.path={folder / 'tsdb'}"], stdout=log, stderr=log)
        try:
            flags = ("--trials", str(TRIALS), "--prices", str(prices(folder)))
            with sweep(cloud, folder, folder, *flags, epochs=100) as job:
                prometheus.wait_for('ray_emo_trials{status="running"} > 0')
                job.wait_until(lambda: lose_one_that_trains(cloud), "a trial")
                prometheus.wait_for('ray_emo_trials{status="done"} == on (run) group_left ray_emo_trials_planned')
                prometheus.wait_for('ALERTS{alertname="EmoNodeLost"}')
                time.sleep(2 * float(INTERVAL.removesuffix("s")))  # whoever asks in such steps has met the last by then
                trials = read_table(str(job.run / "trials.parquet")).to_pylist()
            yield Watched(prometheus, trials)
        finally:
            kill_tree(server.pid)
            server.wait()


def test_every_metric_that_is_named_is_there(watched):
    named = set().union(*map(metric_names, expressions().values()))
    assert named - set(watched.prometheus.series()) == set(UNSEEN)


def test_metrics_that_are_not_seen_here_exist():
    assert {name.removeprefix("ray_") for name in UNSEEN} <= {*METRICS_GAUGES, *METRICS}


def test_alerts_are_tested_on_series_that_have_the_labels_of_real_ones(watched):
    seen = watched.prometheus.series()
    tests = yaml.safe_load((MONITORING / "rules_test.yml").read_text())["tests"]
    tested = {each["series"] for test in tests for each in test["input_series"]}
    assert tested
    for name, labels in (re.fullmatch(r"(\w+)\{(.*)\}", each).groups() for each in tested):
        has = set(re.findall(r"(\w+)=", labels))
        assert name in UNSEEN or any(has <= set(each) for each in seen[name]), f"{name}: {has}"


def test_every_expression_can_be_evaluated(watched):
    states = {rule["name"]: rule for group in watched.prometheus.ask("rules")["groups"] for rule in group["rules"]}
    assert set(states) == {rule["alert"] for rule in ALERTS}
    assert {name: rule.get("lastError") for name, rule in states.items() if rule["health"] != "ok"} == {}


def substituted(expression: str) -> str:
    """As Grafana would ask, with all runs and encoders."""
    for name, value in {"$__interval_ms": "60000", "$__interval": "1m", "$run": ".+", "$encoder": ".+"}.items():
        expression = expression.replace(name, value)
    return expression


@pytest.mark.parametrize(
    ("panel", "target"),
    [
        pytest.param(panel["title"], target, id=f"{panel['title']} {target['refId']}")
        for panel in PANELS
        for target in panel["targets"]
    ],
)
def test_a_panel_shows_something_and_its_legend_names_it(watched, panel, target):
    found = watched.prometheus.history(substituted(target["expr"]))
    if metric_names(target["expr"]) & set(UNSEEN):
        assert not found
        return
    assert found
    for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
        assert all(label in each["labels"] for each in found), label
    legends = [
        re.sub(r"\{\{(\w+)\}\}", lambda m, each=each: each["labels"][m[1]], target["legendFormat"]) for each in found
    ]
    assert len(set(legends)) == len(legends)


def shown(watched: Watched, title: str, number: int = 0) -> list[dict[str, Any]]:
    (panel,) = (panel for panel in PANELS if panel["title"] == title)
    return watched.prometheus.history(substituted(panel["targets"][number]["expr"]))


def test_panels_show_what_happened(watched):
    (ended,) = shown(watched, "Trials ended")
    assert ended["values"] == sorted(ended["values"])
    assert ended["values"][-1] == 1
    (running,) = shown(watched, "Trials under way")
    assert 0 < max(running["values"]) <= TRIALS
    assert running["values"][-1] == 0
    (best,) = shown(watched, "Best val macro F1 by encoder")
    assert best["values"][-1] == pytest.approx(max(trial["val/macro_f1"] for trial in watched.trials))
    (rejects,) = shown(watched, "Posts set aside")
    assert rejects["values"][-1] == pytest.approx(REJECTS / (POSTS + REJECTS))
    (nodes,) = shown(watched, "Nodes")
    assert 2 <= max(nodes["values"]) <= 4
    hours = {each["labels"]["node_type"]: each["values"][-1] for each in shown(watched, "Node hours")}
    assert hours["cpu"] > 0
    (cost,) = shown(watched, "Cost")
    assert cost["labels"]["currency"] == "EUR"
    assert cost["values"] == sorted(cost["values"])
    assert cost["values"][-1] == pytest.approx(PER_HOUR * hours["cpu"], rel=0.2)  # scraped at the same moment or nearly
    for title in ("CPU by node", "Disk by node"):
        assert all(0 <= value <= 100 for each in shown(watched, title) for value in each["values"])
    for title in ("Memory by node", "Object store by node"):
        assert all(0 <= value <= 1 for each in shown(watched, title) for value in each["values"])


@pytest.mark.parametrize(("stage", "posts"), enumerate([POSTS + REJECTS, POSTS, POSTS]))
def test_posts_are_shown_as_they_come(watched, stage, posts):
    (found,) = shown(watched, "Posts per second by stage", stage)
    assert max(found["values"]) == pytest.approx(posts / 60)  # all of them within one interval of a minute


def test_alerts_tell_of_the_lost_node_and_of_the_rejects(watched):
    alerts: dict[str, Callable[[dict[str, str]], bool]] = {
        "EmoNodeLost": lambda labels: labels["instance"].startswith("127.0.0.1:"),
        "EmoManyRejects": lambda labels: labels["alertstate"] == "firing",
    }
    for name, is_right in alerts.items():
        found = watched.prometheus.history(f'ALERTS{{alertname="{name}"}}')
        assert found, name
        assert any(is_right(each["labels"]) for each in found), name
    assert not watched.prometheus.history('ALERTS{alertname=~"EmoTrialsFail|EmoSweepGone"}')
