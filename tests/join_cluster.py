"""A node that joins a head on loopback and stays until it is ended; `ray start` joins by the machine's address alone.

python tests/join_cluster.py ADDRESS OBJECT_STORE_BYTES
"""

import signal
import sys

from ray._private.node import Node
from ray._private.parameter import RayParams

address, object_store = sys.argv[1:]
parameters = RayParams(
    gcs_address=address,
    redis_address=address,
    min_worker_port=0,
    max_worker_port=0,
    dashboard_agent_listen_port=0,
    object_store_memory=int(object_store),
)
node = Node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=False)
print("Ray runtime started", flush=True)
signal.pause()
