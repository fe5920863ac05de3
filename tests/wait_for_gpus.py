"""Tasks that each hold a GPU until all have one: where they ran, and whether emo takes the cluster for one that grows.

python tests/wait_for_gpus.py NUMBER
"""

import json
import os
import sys
import time

import ray

from emo.room import grows


@ray.remote(num_cpus=0)
class Meeting:
    def __init__(self, expected: int) -> None:
        self.missing = expected

    def come(self) -> None:
        self.missing -= 1

    def is_complete(self) -> bool:
        return self.missing == 0


@ray.remote(num_cpus=0, num_gpus=1)
def hold(meeting: ray.actor.ActorHandle) -> str:
    ray.get(meeting.come.remote())
    while not ray.get(meeting.is_complete.remote()):
        time.sleep(0.2)
    return os.environ["RAY_NODE_TYPE_NAME"]


number = int(sys.argv[1])
ray.init(log_to_driver=False, logging_level="ERROR")
found = {"grows": grows()}
meeting = Meeting.remote(number)
found["ran on"] = sorted(ray.get([hold.remote(meeting) for _ in range(number)]))
print(json.dumps(found))
