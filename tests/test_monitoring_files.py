"""The files of infra/monitoring; tests/test_monitoring_stack.py has them at work."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from monitored import ALERTS, DASHBOARD, MONITORING, PANELS, expressions, metric_names

from emo.monitoring import METRICS

ROOT = Path(__file__).parent.parent
RUNBOOK = ROOT / "infra" / "README.md"
CLUSTERS = sorted((ROOT / "cluster").rglob("*.yaml"))
VARIABLES = {"run", "encoder", "datasource", "__interval", "__interval_ms"}
WIDTH = 24
"""Of Grafana's grid."""


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")],
)
def test_promtool_finds_no_fault(arguments):
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (apt install prometheus)")
    done = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_when_it_fires_and_when_it_does_not():
    tests = yaml.safe_load((MONITORING / "rules_test.yml").read_text())["tests"]
    checked = [check for test in tests for check in test["alert_rule_test"]]
    names = {rule["alert"] for rule in ALERTS}
    assert {check["alertname"] for check in checked if check["exp_alerts"]} == names
    assert {check["alertname"] for check in checked if not check["exp_alerts"]} == names


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_an_alert_says_what_is_the_matter_and_where_is_written_what_to_do(rule):
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert {"summary", "description", "runbook"} == set(rule["annotations"])
    page, _, heading = rule["annotations"]["runbook"].partition("#")
    assert ROOT / page == RUNBOOK
    headings = re.findall(r"^#+ (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert heading in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_metrics_of_our_own_are_named_as_they_are():
    named = set().union(*map(metric_names, expressions().values()))
    ours = {name.removeprefix("ray_") for name in named if name.startswith("ray_emo_")}
    assert ours == set(METRICS)
    variables = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    asked = [name.removeprefix("ray_") for query in variables for name in re.findall(r"ray_\w+", query)]
    assert len(asked) == len(variables)
    assert set(asked) <= set(METRICS)


def test_the_names_of_metrics_are_told_from_all_else():
    expression = """
        sum by (run, le) (max by (run) (ray_one{run=~"$run", status!="two"})) > 0 unless on (run) ray_two offset 5m
        and rate(ray_three:rule[$__interval]) * 1e3 / $__interval_ms >= bool 10
    """
    assert metric_names(expression) == {"ray_one", "ray_two", "ray_three:rule"}


def test_panels_say_what_they_show_and_in_what_unit():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert references, panel["title"]
        assert len(set(references)) == len(references), panel["title"]


def test_panels_do_not_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < WIDTH, panel["title"]
        taken |= cells


def test_the_dashboard_has_the_variables_that_it_uses():
    used = set(re.findall(r"\$\{?(\w+)", str(DASHBOARD))) - {"__all"}
    assert used <= VARIABLES
    has = {each["name"]: each["type"] for each in DASHBOARD["templating"]["list"]}
    assert has == {"datasource": "datasource", "run": "query", "encoder": "query"}


def test_legends_name_labels_that_the_expression_keeps():
    for panel in PANELS:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", target["expr"]))))
            assert named <= kept or "by (" not in target["expr"], target["expr"]


def test_every_port_of_ray_pods_that_has_metrics_is_scraped():
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"]["selector"]["matchExpressions"] == [{"key": "ray.io/cluster", "operator": "Exists"}]
    endpoints = monitor["spec"]["podMetricsEndpoints"]
    assert [endpoint["port"] for endpoint in endpoints] == ["metrics", "as-metrics", "dash-metrics"]
    for endpoint in endpoints:  # by which alerts know them
        assert {"targetLabel": "job", "replacement": "ray"} in endpoint["relabelings"]


def ray_clusters() -> dict[str, dict]:
    """File and name -> spec of every RayCluster below cluster/, those of RayJobs too."""
    found = {}
    for path in CLUSTERS:
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and document.get("kind") in ("RayCluster", "RayJob"):
                spec = document["spec"].get("rayClusterSpec", document["spec"])
                found[f"{path.name}: {document['metadata']['name']}"] = spec
    return found


@pytest.mark.parametrize("spec", [pytest.param(spec, id=name) for name, spec in ray_clusters().items()])
def test_pods_have_the_ports_that_are_scraped(spec):
    def ports(group: dict) -> set[str]:
        return {port["name"] for each in group["template"]["spec"]["containers"] for port in each.get("ports", [])}

    assert ports(spec["headGroupSpec"]) >= {"metrics", "as-metrics", "dash-metrics"}
    assert all("metrics" in ports(group) for group in spec["workerGroupSpecs"])
