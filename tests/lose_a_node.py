"""Trains on a cluster of a head and two nodes, loses a node in the middle, and prints what came of it.

python lose_a_node.py POSTS CHECKPOINT FOLDER FEWEST MOST REPLACED

The environment is that of the tests, with a token in RAY_AUTH_TOKEN; with SHOW=1 Ray tells what it does.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from kills import train_workers
from ray.cluster_utils import Cluster

from emo.batches import read_plan
from emo.config import HeadConfig, TrainingConfig
from emo.encoders import Branch
from emo.encoders.hub import resolve
from emo.posts import posts_manifest
from emo.reading import TextVariant
from emo.train_loop import TrainingJob
from emo.trainer import fit

MAX_EPOCHS = 12


def training_job(posts: str, checkpoint: str, num_workers: tuple[int, ...], max_epochs: int) -> TrainingJob:
    manifest = posts_manifest(posts)
    train = manifest["splits"]["train"]
    return TrainingJob(
        train=read_plan(posts, "train"),
        val=read_plan(posts, "val"),
        branches=(resolve(Branch(modality="text", family="bert", checkpoint=checkpoint)),),
        text=TextVariant("append"),
        prevalence=tuple(count / train["num_posts"] for count in train["positives"]),
        label_threshold=manifest["label_threshold"],
        trains_on=manifest["targets"],
        head=HeadConfig(mode="full", batch_size=8, max_epochs=max_epochs, patience=max_epochs),
        training=TrainingConfig(num_workers=num_workers, max_failures=3),
    )


def main(posts: str, checkpoint: str, folder: str, fewest: str, most: str, replaced: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=bool(os.environ.get("SHOW")))
    num_workers = tuple(dict.fromkeys((int(fewest), int(most))))
    job = training_job(posts, checkpoint, num_workers, MAX_EPOCHS)
    with ThreadPoolExecutor(1) as thread:  # nodes can be added in the main thread only
        future = thread.submit(fit, job, folder, "one")
        while not list(Path(folder, "one").glob("checkpoint_*")) and not future.done():
            time.sleep(0.05)
        before = after = len(train_workers())
        cluster.remove_node(nodes[-1], allow_graceful=False)
        if int(replaced):
            cluster.add_node(num_cpus=1)
        while not future.done():
            after = len(train_workers()) or after
            time.sleep(0.2)
    epochs = [row["epoch"] for row in json.loads(future.result().metrics["history"])]
    print(json.dumps({"epochs": epochs, "before": before, "after": after}), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
