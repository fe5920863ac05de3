"""What a sweep costs: prices, the estimate before it, the count of what it took, and how both are said."""

import json
import math
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from emo import storage
from emo.config import CostConfig, SearchSpace, SweepConfig, UserError
from emo.cost import meter, taken
from emo.cost.estimate import (
    TUNE_SECONDS,
    Estimate,
    Fleet,
    Group,
    Stage,
    drift,
    epochs_between,
    estimate_of,
    facts,
    fleet_of,
    halved,
    of_posts,
    of_trials,
    owed_trials,
)
from emo.cost.meter import Meter, Node, Usage
from emo.cost.prices import NodeType, Prices, read_prices
from emo.cost.reckoning import MOST_ROWS, STARTS, TRAINER_SECONDS, Rates, because, stages
from emo.cost.taken import one_line, remarks, table
from emo.cost.timing import BranchTime, TrainingTime, TrialTime
from emo.models import FeatureSpec

SHIPPED = sorted((Path(__file__).parent.parent / "cluster" / "prices").glob("*.yaml"))
FILE = {
    "currency": "EUR",
    "as_of": "2026-11-01",
    "source": "our contract",
    "nodes": {
        "head": {"per_hour": 0.5, "cpus": 0, "gpus": 0},
        "cpu": {"per_hour": 1, "cpus": 16, "gpus": 0},
        "gpu": {"per_hour": 4.0, "cpus": 8, "gpus": 2},
    },
}
PRICES = Prices("EUR", "2026-11-01", "our contract", {kind: NodeType(**each) for kind, each in FILE["nodes"].items()})
TWO_CORES = Fleet((Group("local", 1, 2, 0),))


def written(folder: Path, content: object) -> CostConfig:
    path = folder / "prices.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return CostConfig(prices=str(path))


def changed(kind: str | None = None, **changes: object) -> dict:
    """The file with some entries changed, of a type of node or its own; None removes."""
    content = json.loads(json.dumps(FILE))
    of = content["nodes"][kind] if kind else content
    of |= changes
    for name in [name for name, value in changes.items() if value is None]:
        del of[name]
    return content


# Prices.


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_prices_have_every_type_of_node(path):
    prices = read_prices(CostConfig(prices=str(path)))
    assert list(prices.nodes) == ["head", "cpu", "gpu-small-spot", "gpu-small", "gpu-large-spot", "gpu-large"]
    assert prices.nodes["head"].cpus == 0  # Ray gives it no tasks
    assert all(prices.nodes[kind].gpus for kind in prices.nodes if kind.startswith("gpu"))
    for size in ("small", "large"):
        assert prices.nodes[f"gpu-{size}-spot"].per_hour < prices.nodes[f"gpu-{size}"].per_hour


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_node_of_a_shipped_cluster_has_a_price(path):
    cluster = path.parent.parent / path.name
    if not cluster.exists():
        pytest.skip(f"there is no {cluster}")
    prices = read_prices(CostConfig(prices=str(path)))
    for kind, each in yaml.safe_load(cluster.read_text())["available_node_types"].items():
        assert kind in prices.nodes
        for name, number in (("CPU", prices.nodes[kind].cpus), ("GPU", prices.nodes[kind].gpus)):
            assert each.get("resources", {}).get(name, number) == number


def test_a_price_file_is_read(tmp_path):
    assert read_prices(written(tmp_path, FILE)) == PRICES
    assert read_prices(CostConfig()) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nodes: [", "is no YAML"),
        ("", "has no currency, as_of, source, nodes"),
        (changed(currency=None), "has no currency."),
        (changed(extra=1), "has extra, which is none of"),
        (changed(nodes={}), "has no types of nodes"),
        (changed(kind="cpu", gpus=None), "cpu has no gpus."),
        (changed(kind="cpu", memory=4), "cpu has memory, which is none of"),
        (changed(kind="cpu", per_hour=-1), "cpu has per_hour: -1"),
        (changed(kind="cpu", per_hour="1 EUR"), "cpu has per_hour: 1 EUR"),
        (changed(kind="cpu", per_hour=True), "cpu has per_hour: True"),
        (changed(kind="cpu", cpus=math.inf), "cpu has cpus: inf"),
    ],
)
def test_a_mistake_in_prices_is_one_sentence(tmp_path, content, said):
    with pytest.raises(UserError) as error:
        read_prices(written(tmp_path, content))
    assert said in str(error.value)
    assert str(error.value).startswith(f"--prices {tmp_path}/prices.yaml")
    assert "\n" not in str(error.value)


def test_prices_that_are_not_there_are_missed_by_name(tmp_path):
    with pytest.raises(UserError, match=r"^--prices .*none.yaml: there is no such file"):
        read_prices(CostConfig(prices=str(tmp_path / "none.yaml")))


def test_nodes_are_named_by_the_types_of_the_prices(tmp_path):
    named = written(tmp_path, FILE)
    with pytest.raises(UserError, match=r"^--nodes tpu: .* has no such type, but head, cpu, gpu\.$"):
        read_prices(replace(named, nodes=("tpu=2",)))
    assert read_prices(replace(named, nodes=("gpu=2",))) == PRICES


@pytest.mark.parametrize("named", ["gpu", "gpu=", "gpu=0", "gpu=-1", "gpu=1.5", "=2"])
def test_nodes_have_a_type_and_a_number(named):
    with pytest.raises(UserError, match=f"^--nodes {named} is no type with its number"):
        CostConfig(prices="p.yaml", nodes=(named,))


def test_nodes_want_prices_and_come_once():
    with pytest.raises(UserError, match=r"^--nodes names types of nodes"):
        CostConfig(nodes=("gpu=1",))
    with pytest.raises(UserError, match=r"^--nodes names gpu twice"):
        CostConfig(prices="p.yaml", nodes=("gpu=1", "gpu=2"))


def test_a_fleet_has_a_head_and_room():
    fleet = fleet_of(PRICES, {"gpu": 2, "cpu": 1})
    assert [(group.kind, group.count) for group in fleet.groups] == [("head", 1), ("gpu", 2), ("cpu", 1)]
    assert (fleet.cpus, fleet.gpus) == (32, 4)
    assert fleet_of(PRICES, {"head": 3}).groups[0].count == 3
    assert fleet.slots({"CPU": 1.0}) == 32
    assert fleet.slots({"CPU": 1.0, "GPU": 0.25}) == 16
    assert fleet.slots({"CPU": 6.0}) == 4  # one on each gpu node, two on the other: none lies on two nodes
    assert fleet.teams({"CPU": 6.0}) == 5
    assert fleet.teams({"CPU": 64.0}) == 1


def test_cost_counts_what_has_a_price():
    seconds = {"gpu": 1800.0, "head": 7200.0, "local": 100.0}
    assert PRICES.cost(seconds) == pytest.approx(4.0 / 2 + 0.5 * 2)
    assert PRICES.without_price(seconds) == ["local"]


# The estimate.


def test_owed_trials_are_those_of_the_budget():
    assert owed_trials(12, 4, {"a": 0, "b": 0, "c": 0}) == {"a": 4, "b": 4, "c": 4}
    assert sum(owed_trials(17, 4, {"a": 0, "b": 0, "c": 0}).values()) == 17
    assert owed_trials(12, 4, {"a": 4, "b": 3, "c": 0}) == {"a": 0, "b": 1, "c": 4}
    assert owed_trials(12, 4, {"a": 4, "b": 4, "c": 4}) == {"a": 0, "b": 0, "c": 0}
    assert sum(owed_trials(13, 4, {"a": 5, "b": 4, "c": 4}).values()) == 0


def test_halving_leaves_a_third_at_each_rung():
    assert halved(2, 2, 3) == 2
    assert halved(6, 2, 3) == pytest.approx(2 + 4 / 3)
    assert halved(20, 2, 3) == pytest.approx(2 + 4 / 3 + 12 / 9 + 2 / 27)


def test_drift_is_that_of_steps_between_batch_sizes():
    assert drift(SearchSpace(batch_size=(8,))) == 0
    steps = np.array([4.0, 2.0, 1.0])
    assert drift(SearchSpace(batch_size=(8, 16, 32))) == pytest.approx(steps.std() / steps.mean())


def test_trials_take_their_means():
    stage = of_trials({"a": [1.0, 3.0], "b": [2.0, 2.0, 8.0]}, {"a": 10, "b": 5}, 1, 0.0, 0.0)
    assert stage.seconds == pytest.approx(10 * 2 + 5 * 4 + 15 * TUNE_SECONDS)
    halves = of_trials({"a": [1.0, 3.0], "b": [2.0, 2.0, 8.0]}, {"a": 10, "b": 5}, 2, 0.0, 0.0)
    assert halves.seconds == pytest.approx(stage.seconds / 2 + (40 / 15) / 2)
    assert halves.sd == pytest.approx(stage.sd / 2)


def test_more_draws_make_a_surer_estimate_and_drift_a_less_sure_one():
    few = of_trials({"a": [1.0, 3.0, 2.0]}, {"a": 200}, 2, 0.0, 0.0)
    many = of_trials({"a": [1.0, 3.0, 2.0] * 4}, {"a": 200}, 2, 0.0, 0.0)
    assert many.seconds == pytest.approx(few.seconds)
    assert many.sd < few.sd / 2
    assert of_trials({"a": [1.0, 3.0, 2.0] * 4}, {"a": 200}, 2, 0.5, 0.0).sd > 2 * many.sd
    assert (
        of_trials({"a": [1.0, 3.0, 2.0]}, {"a": 8}, 2, 0.5, 0.0).sd
        == of_trials({"a": [1.0, 3.0, 2.0]}, {"a": 8}, 2, 0.0, 0.0).sd
    )  # Optuna's first ten are at random


def test_the_interval_of_trials_holds_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        seconds = rng.gamma(4.0, 0.25, size=(2, 3 + 60))
        drawn, rest = {"a": seconds[0, :3], "b": seconds[1, :3]}, seconds[:, 3:].sum()
        stage = of_trials({name: list(each) for name, each in drawn.items()}, {"a": 60, "b": 60}, 1, 0.0, 0.0)
        made = estimate_of(TWO_CORES, [stage], [])
        held += made.seconds[0] <= rest + 120 * TUNE_SECONDS <= made.seconds[2]
    assert 0.92 <= held / 400 <= 1.0


def test_posts_take_their_rate_on_every_actor():
    seconds, sd = of_posts(1000, [0.1, 0.1, 0.1], start=5.0, actors=4)
    assert (seconds, sd) == (pytest.approx(30.0), pytest.approx(0.0))
    assert of_posts(1000, [0.1, 0.2], start=0.0, actors=1)[1] > 0
    assert of_posts(1000, [0.1], start=0.0, actors=1)[1] == pytest.approx(50.0)


def test_the_interval_is_one_of_factors():
    made = estimate_of(TWO_CORES, [Stage("a", 60.0, 30.0), Stage("b", 40.0, 40.0)], ["reasons"])
    factor = math.exp(1.96 * 50 / 100)
    assert made.seconds == (pytest.approx(100 / factor), 100.0, pytest.approx(100 * factor))
    assert made.stages == {"a": 60.0, "b": 40.0}


def rates(**changes: object) -> Rates:
    found = {
        "sizes": {"train": 600, "val": 100, "test": 300},
        "owed": {"a": 20},
        "trials": {"a": tuple(TrialTime(seconds, 20, ended=True) for seconds in (1.0, 2.0, 3.0))},
        "trainings": {},
        "start": 4.0,
        "search": 5.0,
        "seconds": 3.0,
    }
    return Rates(**found | changes)


def by_name(found: list[Stage]) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in found}


def test_cached_features_are_reckoned_from_trials_branches_and_searches():
    config = SweepConfig(encoders=("a",), trials=20, refine_trials=0, top=4, max_epochs=20)
    branch = BranchTime(start=2.0, seconds=(0.01, 0.01), spec=FeatureSpec(8))
    found = stages(config, rates(unread=((branch, 10_000),)), TWO_CORES)
    assert by_name(found) == {
        "start and report": STARTS * 4.0,
        "features": pytest.approx(2 + 10_000 * 0.01 / 2),
        "trials": pytest.approx((20 * 2 + 20 * TUNE_SECONDS) / 2 + 2 / 2),
        "thresholds": pytest.approx(4 * (2 * 2 + 5) / 2),  # two more trainings of each, on thirds of the posts
    }
    fast = by_name(stages(config, rates(), Fleet((Group("cpu", 10, 2, 0),))))
    assert fast["trials"] == pytest.approx((40 + 20 * TUNE_SECONDS) / 20 + 2 * 19 / 20)
    alone = by_name(stages(replace(config, trials_at_once=1), rates(), TWO_CORES))
    assert alone["trials"] == pytest.approx(40 + 20 * TUNE_SECONDS)


def test_trials_without_an_end_are_taken_to_need_half_of_the_epochs_or_all():
    config = SweepConfig(encoders=("a",), trials=20, refine_trials=0, max_epochs=20)
    cut = rates(trials={"a": (TrialTime(0.2, 2, ended=False),) * 3})
    whole = rates(trials={"a": (TrialTime(1.5, 15, ended=True),) * 3})
    assert by_name(stages(config, cut, TWO_CORES)) == by_name(stages(config, whole, TWO_CORES))
    errors = [next(s.sd for s in stages(config, each, TWO_CORES) if s.name == "trials") for each in (cut, whole)]
    assert errors[0] > 1.2 * errors[1]
    large = rates(trials=cut.trials, sizes={"train": 3 * MOST_ROWS, "val": 1, "test": 1})
    assert by_name(stages(config, large, TWO_CORES))["trials"] == pytest.approx(
        (20 * 4.5 + 20 * TUNE_SECONDS) / 2 + 4.5 / 2
    )
    said = "3 of these trials, stopped before their end, are taken to need 10 to 20 epochs"
    assert said in because(config, cut)
    some = rates(trials={"a": (*cut.trials["a"], *whole.trials["a"])})
    (error,) = [stage.sd for stage in stages(config, some, TWO_CORES) if stage.name == "trials"]
    assert errors[1] / 2 < error < errors[0]
    assert "epochs" not in " ".join(because(config, whole))
    pruned = by_name(stages(replace(config, pruning="asha"), cut, TWO_CORES))
    assert pruned["trials"] < by_name(stages(config, cut, TWO_CORES))["trials"]


def test_trained_encoders_are_reckoned_from_their_steps():
    config = SweepConfig(
        encoders=("a",), mode="full", trials=4, refine_trials=0, top=2, max_epochs=10, pruning="none", patience=4
    )
    training = TrainingTime(start=10.0, training={8: 0.1, 16: 0.1}, reading=0.02, judging=0.03)
    measured = rates(trials={}, trainings={"a": training}, owed={"a": 4})
    found = by_name(stages(config, measured, TWO_CORES))
    epochs, _ = epochs_between(5, 10)
    trial = TRAINER_SECONDS + 10 + epochs * (600 * 0.12 + 100 * 0.05)
    assert found["trials"] == pytest.approx((4 * trial + 4 * TUNE_SECONDS) / 2 + trial / 2)
    assert found["scores"] == pytest.approx(2 * 1000 * 0.05 / 2)
    assert found["thresholds"] == pytest.approx(2 * 5 / 2)
    gpus = by_name(stages(config, measured, Fleet((Group("gpu", 1, 8, 2),))))  # whose cores read meanwhile
    trial = TRAINER_SECONDS + 10 + epochs * (600 * 0.1 + 100 * 0.03)
    assert gpus["trials"] == pytest.approx((4 * trial + 4 * TUNE_SECONDS) / 2 + trial / 2)


def test_the_plan_says_time_hours_money_and_what_they_rest_on():
    fleet = fleet_of(PRICES, {"gpu": 2})
    made = estimate_of(fleet, [Stage("trials", 3600.0, 0.0)], ["six trials", "luck"])
    assert facts(made, PRICES) == [
        ("estimate", "1 h 00 min (95 %: 1 h 00 min to 1 h 00 min) on 1 head and 2 gpu: 16 cores, 4 GPUs"),
        ("of that", "trials 1 h 00 min"),
        ("hours", "16 (16 to 16) core-hours, 4 (4 to 4) GPU-hours"),
        ("money", "8.50 EUR (8.50 to 8.50), by prices of 2026-11-01"),
        ("rests on", "six trials; luck"),
    ]
    here = dict(facts(estimate_of(TWO_CORES, [Stage("trials", 1800.0, 0.0)], []), PRICES))
    assert here["hours"] == "1 (1 to 1) core-hours, 0 GPU-hours"
    assert here["money"] == "not known: --prices has no price of local; --nodes tells which cluster is to be reckoned"
    assert "money" not in dict(facts(made, None))
    half = estimate_of(Fleet((Group("local", 1, 2, 0), Group("cpu", 1, 2, 0))), [Stage("trials", 1800.0, 0.0)], [])
    assert dict(facts(half, PRICES))["money"].startswith(
        "0.50 EUR (0.50 to 0.50), without local, which --prices lacks,"
    )
    assert facts(None, PRICES) == []


# What it took.


def test_nodes_count_for_as_long_as_they_are_there():
    usage = Usage()
    head, cpu = Node("head", 0, 0), Node("cpu", 4, 0, used_cpus=3)
    gpu = Node("gpu", 8, 2, used_cpus=2, used_gpus=1)
    usage.add([head], 100)
    usage.add([head, cpu, gpu], 50)
    usage.add([head, gpu, gpu], 10)
    assert usage.seconds == 160
    assert usage.node_seconds == {"head": 160, "cpu": 50, "gpu": 70}
    assert usage.core_seconds == 4 * 50 + 8 * 70
    assert usage.gpu_seconds == 2 * 70
    assert usage.used_core_seconds == 3 * 50 + 2 * 70
    assert usage.used_gpu_seconds == 70


def test_counts_add_up_and_differ():
    first, more = Usage(), Usage()
    first.add([Node("a", 2, 0)], 10)
    more.add([Node("b", 1, 1)], 5)
    both = first.plus(more)
    assert (both.seconds, both.node_seconds) == (15, {"a": 10, "b": 5})
    assert (both.core_seconds, both.gpu_seconds) == (25, 5)
    assert both.since(first).node_seconds == {"a": 0, "b": 5}
    assert both.since(first).core_seconds == more.core_seconds


@pytest.fixture
def nodes(monkeypatch):
    """The nodes of a cluster that the test changes; no Ray is needed."""
    found = [Node("cpu", 2, 0)]
    monkeypatch.setattr(meter, "nodes_now", lambda: list(found))
    monkeypatch.setattr(meter, "set_gauge", lambda *args, **labels: None)
    monkeypatch.setattr(meter, "SAMPLE_SECONDS", 0.02)
    monkeypatch.setattr(meter, "WRITE_SECONDS", 0.1)
    return found


ESTIMATE = estimate_of(Fleet((Group("cpu", 1, 2, 0),)), [Stage("trials", 100.0, 20.0)], ["six trials"])


def read(folder: Path) -> dict:
    return storage.read_json(str(folder / taken.FILE))


def test_a_meter_counts_nodes_that_come_and_go(tmp_path, nodes):
    with Meter(PRICES) as counted:
        time.sleep(0.2)
        nodes.append(Node("gpu", 8, 1))
        time.sleep(0.4)
        nodes.pop()
        counted.keep_in(str(tmp_path))
        time.sleep(0.2)
    usage = read(tmp_path)["usage"]
    assert usage["node_seconds"]["cpu"] == pytest.approx(usage["seconds"])
    assert 0.8 <= usage["seconds"] <= 1.6
    assert usage["node_seconds"]["gpu"] == pytest.approx(0.4, abs=0.15)
    assert read(tmp_path)["prices"]["currency"] == "EUR"


def test_a_resumed_run_goes_on_counting_and_keeps_its_first_estimate(tmp_path, nodes):
    with Meter(PRICES) as first:
        first.keep_estimate(ESTIMATE)
        first.keep_in(str(tmp_path))
        time.sleep(0.3)
    before = read(tmp_path)
    with Meter(None) as second:  # without --prices, those of before hold
        second.keep_estimate(replace(ESTIMATE, because=("another",)))
        second.keep_in(str(tmp_path))
        time.sleep(0.1)
    after = read(tmp_path)
    assert after["usage"]["seconds"] > before["usage"]["seconds"] + 0.1
    assert after["estimate"] == before["estimate"] == json.loads(json.dumps(asdict(ESTIMATE)))
    assert after["before"] == before["before"]
    assert after["prices"] == before["prices"]


def test_an_estimate_of_a_resumed_run_alone_counts_from_there(tmp_path, nodes):
    with Meter(None) as first:
        first.keep_in(str(tmp_path))
        time.sleep(0.2)
    so_far = read(tmp_path)["usage"]["seconds"]
    with Meter(None) as second:
        second.keep_estimate(ESTIMATE)
        second.keep_in(str(tmp_path))
    assert read(tmp_path)["before"]["seconds"] >= so_far


def test_a_killed_run_has_been_counted_up_to_the_last_write(tmp_path, nodes):
    counted = Meter(None).__enter__()
    counted.keep_in(str(tmp_path))
    time.sleep(0.5)
    assert read(tmp_path)["usage"]["seconds"] > 0.25  # nobody has closed it
    counted.__exit__()


def test_a_cluster_that_does_not_answer_is_counted_once_it_does(tmp_path, nodes, monkeypatch):
    def away() -> list[Node]:
        raise ConnectionError

    with Meter(None) as counted:
        counted.keep_in(str(tmp_path))
        with monkeypatch.context() as patch:
            patch.setattr(meter, "nodes_now", away)
            time.sleep(0.3)
        time.sleep(0.1)
        assert counted.thread.is_alive()
    assert read(tmp_path)["usage"]["node_seconds"]["cpu"] >= 0.4


def test_no_thread_is_left(nodes):
    with Meter(None) as counted:
        pass
    assert not counted.thread.is_alive()
    assert counted.thread not in threading.enumerate()


def content(**changes: object) -> dict:
    usage, before = Usage(), Usage()
    before.add([Node("cpu", 2, 0, 1)], 30)
    usage = before.plus(usage)
    usage.add([Node("cpu", 2, 0, 1), Node("gpu", 8, 2, 4, 1)], 90)
    found = {
        "usage": asdict(usage), "before": asdict(before), "estimate": asdict(ESTIMATE), "prices": asdict(PRICES)
    }  # fmt: skip
    return json.loads(json.dumps(found | changes))


def test_the_table_compares_what_it_took_with_the_estimate():
    lines = {line.name: line for line in table(content())}
    assert lines["Wall time"].taken == "2 min 00 s"
    assert lines["Wall time"].since == "1 min 30 s"
    assert lines["Wall time"].estimated == "1 min 40 s (1 min 08 s to 2 min 28 s)"
    assert lines["Wall time"].within
    assert lines["Core-hours"].taken == f"{(2 * 120 + 8 * 90) / 3600:.3g}"
    assert not lines["Core-hours"].within  # nobody had reckoned with the GPU node
    assert lines["Node-hours, gpu"].taken == "0.025"
    assert lines["Node-hours, gpu"].estimated == "0"
    assert lines["Money"].taken == "0.13 EUR"
    assert lines["Money"].estimated == "0.03 EUR (0.02 EUR to 0.04 EUR)"
    said = remarks(content())
    assert said[0] == f"{100 * (120 + 4 * 90) / (240 + 720):.0f} % of the core-hours were in use"
    assert said[1:3] == ["50 % of the GPU-hours were in use", "prices of 2026-11-01: our contract"]
    assert said[-1] == "estimate: six trials"
    assert one_line(content()) == (
        "0.267 core-hours, 0.05 GPU-hours, 0.13 EUR; 1 min 30 s since the estimate of 1 min 40 s "
        "(1 min 08 s to 2 min 28 s)"
    )


def test_without_estimate_and_prices_there_are_hours():
    plain = content(estimate=None, before=None, prices=None)
    assert {line.name for line in table(plain)} == {
        "Wall time", "Core-hours", "GPU-hours", "Node-hours, cpu", "Node-hours, gpu"
    }  # fmt: skip
    assert {line.within for line in table(plain)} == {None}
    assert one_line(plain) == "0.267 core-hours, 0.05 GPU-hours"
    assert not [each for each in remarks(plain) if each.startswith(("prices", "estimate"))]
    lacking = content()
    del lacking["prices"]["nodes"]["gpu"]
    assert "no price is known of gpu" in remarks(lacking)
    assert "EUR" in one_line(lacking)
    del lacking["prices"]["nodes"]["cpu"]
    assert "no price is known of cpu and gpu" in remarks(lacking)
    assert "EUR" not in one_line(lacking)


def test_an_estimate_survives_json():
    assert Estimate(**json.loads(json.dumps(asdict(ESTIMATE)))).nodes == ESTIMATE.nodes
