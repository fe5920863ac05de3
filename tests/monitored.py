"""What infra/monitoring asks of Prometheus: its alerts, the panels of its dashboard, and the metrics that they name."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parent.parent / "infra" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "emo.json").read_text())
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OPERATORS = {"and", "or", "unless", "bool", "offset"}


def metric_names(expression: str) -> set[str]:
    """The metrics that a PromQL expression names: what is left of its words without strings, selectors, ranges, lists
    of labels, numbers, functions and operators."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\$\w+", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*(?!\s*\(|[\w:])", bare)
    return set(words) - OPERATORS


def expressions() -> dict[str, str]:
    """Alert, or panel and target -> the expression."""
    alerts = {rule["alert"]: rule["expr"] for rule in ALERTS}
    return alerts | {
        f"{panel['title']}, {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
    }
