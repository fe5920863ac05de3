"""An EC2 provider for Ray's cluster launcher: spot instances, and on-demand ones where EC2 has no spot left.

Ray by itself does not fall back: a type of node whose launches fail keeps its priority and is asked for again, without
end. ``cluster/aws.yaml`` names this class; ``ray up`` imports it where it runs, and the autoscaler on the head.
"""

import logging
import os
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

SPOT = "InstanceMarketOptions"
"""The key of a node's configuration that asks for spot."""
NO_SPOT = {
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",  # the account's quota
    "SpotMaxPriceTooLow",
    "Unsupported",  # the last zone that was tried does not have this type at all
}
"""What EC2 says when an on-demand instance may be had all the same."""

log = logging.getLogger(__name__)


class SpotFirst(AWSNodeProvider):
    """Of a type that asks for spot, launches on demand as many as spot does not give; and never ends its own head."""

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """EC2 instances by their ids; fewer than ``count`` where on-demand capacity ends too.

        Raises NodeLaunchException where there are none at all, or where the request itself is at fault.
        """
        if SPOT not in node_config:
            return super().create_node(node_config, tags, count)
        created, why = {}, "fewer than asked for"
        try:
            created = super().create_node(node_config, tags, count)
        except NodeLaunchException as error:
            if error.category not in NO_SPOT:
                raise
            why = error.category
        if missing := count - len(created):
            log.warning("%d of %d %s on demand: %s", missing, count, node_config["InstanceType"], why)
            on_demand = {key: value for key, value in node_config.items() if key != SPOT}
            created |= super().create_node(on_demand, tags, missing)
        return created

    def terminate_nodes(self, node_ids: list[str]) -> None:
        """Terminate instances, but for the one that this runs on.

        Ray's autoscaler takes its own head for lost while Ray is stopped there, as `ray up` does before every restart.
        """
        own = os.environ.get("RAY_CLOUD_INSTANCE_ID")
        super().terminate_nodes([each for each in node_ids if each != own])
