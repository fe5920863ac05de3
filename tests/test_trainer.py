"""Training on Ray Train workers: that it is the same training, however many there are and whatever befalls them."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint
from corpora import prepare_files, write_posts
from kills import train_workers
from safetensors.torch import load

from emo.batches import Recipe, read_batches, read_plan
from emo.config import HeadConfig, PrepareConfig, SearchSpace, SweepConfig, TrainingConfig, UserError
from emo.encoders import Branch
from emo.encoders.hub import resolve
from emo.finetune import assemble, freeze_unused, parameter_groups
from emo.labels import hard_targets
from emo.losses import goals_of, make_loss
from emo.models import start_at_prevalence
from emo.posts import posts_manifest
from emo.reading import TextVariant
from emo.room import require_room, trainings_that_fit
from emo.sampler import Share
from emo.train import MicroBatch, make_optimizer, train_epoch
from emo.train_loop import MAX_NORM, STATE, TrainingJob
from emo.train_state import Recent, State
from emo.trainer import SNAPSHOT, fit, is_whole

pytestmark = pytest.mark.usefixtures("ray_session")

HEAD = HeadConfig(
    mode="full", batch_size=1000, dropout=0.0, lr=1e-3, encoder_lr=1e-3, max_epochs=6, patience=6, warmup_steps=2
)
"""With all posts in one step, a step has the same posts however many workers share them."""


@pytest.fixture(scope="module")
def posts(tmp_path_factory, ray_session):
    folder = tmp_path_factory.mktemp("corpus")
    target = str(folder / "prepared")
    prepare_files(write_posts(folder, 61), target, PrepareConfig(labels="auto", image_size=32), seed=0)
    return target


@pytest.fixture(scope="module")
def job(posts, tmp_path_factory):
    clip = str(write_checkpoint("clip", tmp_path_factory.mktemp("clip")))
    manifest = posts_manifest(posts)
    train = manifest["splits"]["train"]
    return TrainingJob(
        train=read_plan(posts, "train"),
        val=read_plan(posts, "val"),
        branches=tuple(resolve(Branch(modality=m, family="clip", checkpoint=clip)) for m in ("text", "image")),
        text=TextVariant("append"),
        prevalence=tuple(count / train["num_posts"] for count in train["positives"]),
        label_threshold=manifest["label_threshold"],
        trains_on=manifest["targets"],
        head=HEAD,
        training=TrainingConfig(max_failures=2),
    )


def losses_in_one_process(job):
    """Train losses of a plain loop without Ray."""
    encoders, model = assemble(job.branches, len(job.prevalence), job.head, job.training)
    start_at_prevalence(model.classifier, torch.tensor(job.prevalence))
    freeze_unused(model, encoders)
    loss_of = make_loss(job.head.loss, torch.tensor(job.prevalence))
    groups = parameter_groups(model, encoders, job.head)
    optimizer, scheduler = make_optimizer(groups, job.head, job.head.max_epochs)
    recipe = Recipe(job.branches, job.text, len(job.prevalence), augment=None)
    share = Share(job.train.num_rows, job.head.batch_size, 0, 1)
    losses = []
    for epoch in range(1, job.head.max_epochs + 1):
        model.train()
        batches = (
            MicroBatch(
                batch.inputs,
                goals_of(hard_targets(batch.shares.numpy(), job.label_threshold), None, "threshold", job.head.loss),
                batch.scale,
                batch.ends_step,
            )
            for batch in read_batches(job.train, share, recipe, (job.head.seed, epoch), None)
        )
        losses.append(train_epoch(model, batches, optimizer, scheduler, loss_of, max_norm=MAX_NORM))
    return losses


def kill_a_worker(folder: Path, killed: list[int]) -> None:
    """Kill -9 one Ray Train worker once a checkpoint is there."""
    while not list(folder.glob("checkpoint_*")):
        time.sleep(0.05)
    worker = train_workers()[-1]
    worker.kill()
    killed.append(worker.pid)


def test_two_workers_of_which_one_is_killed_train_as_one_process_does(job, tmp_path):
    job = replace(job, training=TrainingConfig(num_workers=(2,), micro_batch_size=7, max_failures=2))
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "one", killed), daemon=True)
    killer.start()
    trained = fit(job, str(tmp_path), "one")
    assert killed
    history = json.loads(trained.metrics["history"])
    assert [row["epoch"] for row in history] == list(range(1, HEAD.max_epochs + 1))
    wanted = losses_in_one_process(job)
    torch.testing.assert_close(
        torch.tensor([row["train_loss"] for row in history]), torch.tensor(wanted), atol=1e-4, rtol=1e-3
    )
    assert wanted[-1] < wanted[0]
    assert any(name.startswith("towers.image.") for name in load(trained.weights))


def test_what_a_kill_left_half_written_or_half_removed_is_not_gone_on_with(tmp_path):
    assert is_whole(str(tmp_path / "new"))
    (tmp_path / "checkpoint_1").mkdir()
    (tmp_path / "checkpoint_1" / STATE).write_text("{}")
    listed = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_1"}]})
    for content, whole in ((listed, True), (listed[:-9], False), ("", False)):
        (tmp_path / SNAPSHOT).write_text(content)
        assert is_whole(str(tmp_path)) is whole
    (tmp_path / SNAPSHOT).write_text(listed)
    (tmp_path / "checkpoint_1" / STATE).unlink()
    assert not is_whole(str(tmp_path))


def test_what_never_fits_is_refused_at_once(ray_session):
    assert trainings_that_fit(TrainingConfig(num_workers=(1,))) >= 1
    with pytest.raises(UserError, match="--num-workers 1000 asks for 1 core for each worker, but the cluster has"):
        require_room(
            SweepConfig(
                mode="full", space=SearchSpace(batch_size=(1000,)), training=TrainingConfig(num_workers=(1000,))
            )
        )


def test_a_training_is_over_after_patience_the_last_epoch_or_an_error():
    head = HeadConfig(max_epochs=5, patience=2)
    state = State()
    for loss, is_over in ((0.5, False), (0.4, False), (0.6, False), (0.5, True)):
        state.add({"train_loss": 0.3, "val_loss": loss}, {"val/macro_f1": 1 - loss})
        assert state.is_over(head) is is_over
    assert state.metrics()["val/macro_f1"] == 0.6  # of the best epoch, not of the last
    assert (state.metrics()["best_epoch"], state.metrics()["epoch"]) == (2, 4)
    assert State(error="the loss became nan").is_over(head)
    assert State(epoch=5, best_epoch=5).is_over(head)


def test_only_the_last_logits_are_kept():
    recent = Recent(5)
    for number in range(6):
        recent.shares(torch.full((2, 1), float(number)))
        recent.logits(torch.full((2, 1), float(number)))
    recent.skip()
    recent.logits(torch.zeros(1, 1))
    logits, shares = recent.rows()
    assert logits.flatten().tolist() == shares.flatten().tolist() == [3, 3, 4, 4, 5, 5]
