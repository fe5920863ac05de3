"""Spot first, and on demand what spot does not give."""

import pytest
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

from emo.spot import SPOT, SpotFirst

ON_DEMAND = {"InstanceType": "g6.xlarge", "ImageId": "ami-1"}
ASKS_FOR_SPOT = ON_DEMAND | {SPOT: {"MarketType": "spot"}}


class EC2:
    """Launches as many spot instances as it has, and any number on demand."""

    def __init__(self, spot: int, error: str = "InsufficientInstanceCapacity") -> None:
        self.spot, self.error = spot, error
        self.launched: list[str] = []

    def create_node(self, node_config, tags, count):
        number = min(count, self.spot) if SPOT in node_config else count
        if not number:
            raise NodeLaunchException(self.error, "none left", None)
        assert tags == {"ray-user-node-type": "gpu-small-spot"}
        assert {key: node_config[key] for key in ON_DEMAND} == ON_DEMAND
        names = [f"{'spot' if SPOT in node_config else 'on demand'} {number}" for number in range(number)]
        self.launched += names
        return dict.fromkeys(names)


def launch(monkeypatch, ec2: EC2, node_config: dict, count: int) -> list[str]:
    """The instances that the provider says it made."""
    monkeypatch.setattr(AWSNodeProvider, "create_node", lambda self, *arguments: ec2.create_node(*arguments))
    provider = SpotFirst.__new__(SpotFirst)
    created = provider.create_node(dict(node_config), {"ray-user-node-type": "gpu-small-spot"}, count)
    assert list(created) == ec2.launched
    return ec2.launched


@pytest.mark.parametrize(
    ("spot", "launched"),
    [
        (5, ["spot 0", "spot 1", "spot 2"]),
        (2, ["spot 0", "spot 1", "on demand 0"]),
        (0, ["on demand 0", "on demand 1", "on demand 2"]),
    ],
)
def test_on_demand_makes_up_for_the_spot_that_is_missing(monkeypatch, spot, launched):
    assert launch(monkeypatch, EC2(spot), ASKS_FOR_SPOT, 3) == launched


def test_a_type_that_does_not_ask_for_spot_gets_none(monkeypatch):
    assert launch(monkeypatch, EC2(5), ON_DEMAND, 2) == ["on demand 0", "on demand 1"]


@pytest.mark.parametrize("error", ["UnauthorizedOperation", "InvalidAMIID.NotFound", "RequestLimitExceeded"])
def test_a_mistake_is_not_paid_for_on_demand(monkeypatch, error):
    ec2 = EC2(0, error)
    with pytest.raises(NodeLaunchException, match=error):
        launch(monkeypatch, ec2, ASKS_FOR_SPOT, 1)
    assert not ec2.launched


def test_it_is_said_what_runs_on_demand_and_why(monkeypatch, caplog):
    launch(monkeypatch, EC2(1), ASKS_FOR_SPOT, 3)
    launch(monkeypatch, EC2(0), ASKS_FOR_SPOT, 1)
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "2 of 3 g6.xlarge on demand: fewer than asked for"
    assert second == "1 of 1 g6.xlarge on demand: InsufficientInstanceCapacity"


def test_the_autoscaler_does_not_end_the_instance_that_it_runs_on(monkeypatch):
    ended: list[str] = []
    monkeypatch.setattr(AWSNodeProvider, "terminate_nodes", lambda self, node_ids: ended.extend(node_ids))
    provider = SpotFirst.__new__(SpotFirst)
    monkeypatch.setenv("RAY_CLOUD_INSTANCE_ID", "i-head")  # as on the head
    provider.terminate_nodes(["i-head", "i-worker"])
    assert ended == ["i-worker"]
    monkeypatch.delenv("RAY_CLOUD_INSTANCE_ID")  # as where `ray down` runs
    provider.terminate_nodes(["i-head"])
    assert ended == ["i-worker", "i-head"]
