"""The calibration run before a sweep: pieces of its work are timed on the cluster, where they will run."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import ray

from emo import storage
from emo.config import TRAINS_ENCODERS, HeadConfig, SweepConfig, UserError, chosen_nodes
from emo.console import say, warn
from emo.cost.estimate import Estimate, Fleet, Group, estimate_of, fleet_of, owed_trials
from emo.cost.meter import nodes_now
from emo.cost.prices import Prices
from emo.cost.reckoning import MOST_ROWS, Rates, because, stages
from emo.cost.timing import (
    BranchTime,
    TrainingTime,
    TrialTime,
    cut,
    is_there,
    time_branch,
    time_search,
    time_training,
    time_trial,
)
from emo.encode import plan_units
from emo.encoded import encoded_posts
from emo.encoders import Branch, EncoderSpec
from emo.errors import sentence
from emo.features import Features, embed, features_key
from emo.models import FeatureSpec
from emo.parts import missing_parts
from emo.pipeline import Posts, training_jobs
from emo.room import grows, has_gpus, of_trial, of_worker
from emo.sweep import distributions, fixed_choices
from emo.train import TrainingData
from emo.trial import chosen
from emo.trials import read_trials

TINY_STEPS = 2_000
"""A sweep of fewer steps is over as soon as the calibration."""
MIN_DRAWS, MAX_DRAWS = 3, 12
"""So many trials are drawn of each encoder."""
SHARE, LEAST_SECONDS, MOST_SECONDS = 0.05, 1.0, 10.0
"""Seconds that an encoder's drawn trials take for each trial that it will have, and at least and at most."""
CORE = {"CPU": 1.0}
MOST_START = 20.0
"""Seconds that a process takes to start at most; the rest of its time went by until there was a node."""
WAIT_SECONDS = 600.0
"""So long the calibration waits for nodes that are to come."""


def estimated(
    config: SweepConfig, posts: Posts, specs: list[EncoderSpec], run: str, prices: Prices | None
) -> Estimate | None:
    """What is left of a sweep in the folder ``run`` will take; None, with a word, where that cannot be told, or is not
    wanted. With ``--estimate only``, what goes wrong is raised."""
    wish, named = config.cost.estimate, chosen_nodes(config.cost.nodes)
    if wish == "no":
        return None
    fleet = fleet_of(prices, named) if prices and named else None
    calibration = Calibration(config, posts, specs, run)
    if wish == "yes" and calibration.most_steps < TINY_STEPS:
        say(f"no estimate: all trials together are {calibration.most_steps:,} steps at most")
        return None
    say("estimate: timing some trials and encoders")
    try:
        rates = calibration.measured()
        on = fleet or present()
        return estimate_of(on, stages(config, rates, on), [*because(config, rates), *_of_nodes(rates, fleet)])
    except Exception as error:
        if wish == "only":
            raise
        warn(f"there is no estimate: {sentence(error) or error}")
        return None


def present() -> Fleet:
    """The nodes that the cluster has now."""
    counts = Counter((node.kind, node.cpus, node.gpus) for node in nodes_now())
    return Fleet(tuple(Group(kind, count, cpus, gpus) for (kind, cpus, gpus), count in counts.items()))


def _of_nodes(rates: Rates, chosen_fleet: Fleet | None) -> list[str]:
    """What an estimate rests on where the nodes are others than those that were measured on."""
    if chosen_fleet is None:
        return (
            ["the cluster may grow, so that it takes less time on more nodes: name some with --nodes"]
            if grows()
            else []
        )
    said = ["the chosen nodes are taken to be as fast as those here"]
    if chosen_fleet.gpus and not has_gpus() and (rates.unread or rates.trainings):
        said.append("no GPU is here, so one is taken to be as fast as a core here, and will be much faster")
    return said


class Calibration:
    """What is to be timed for a sweep."""

    def __init__(self, config: SweepConfig, posts: Posts, specs: list[EncoderSpec], run: str) -> None:
        self.config, self.posts, self.specs = config, posts, specs
        self.labelled = encoded_posts(posts.folder, [], config.fold)
        uri = storage.join(run, "trials.parquet")
        self.ended = [row for row in (read_trials(run) if storage.exists(uri) else []) if row["status"] != "running"]
        counts = Counter(row["encoder"] for row in self.ended)
        by_name = {spec.name: counts[spec.name] for spec in specs}
        self.owed = owed_trials(config.budget.total_trials(len(specs)), config.budget.trials, by_name)

    @property
    def num_train(self) -> int:
        return len(self.labelled.targets["train"])

    @property
    def most_steps(self) -> int:
        """Of all trials together."""
        steps = -(-self.num_train // min(self.config.space.batch_size))
        return sum(self.owed.values()) * self.config.budget.max_epochs * steps

    def measured(self) -> Rates:
        """Time pieces of the work on the cluster."""
        began, config, targets = time.monotonic(), self.config, self.labelled.targets
        single_label, searches = "softmax" in config.space.loss, config.budget.calibration_trials
        searched = _start(time_search, CORE, *targets["train"].shape, searches, single_label)
        _results([_start(is_there, CORE, fresh=True)])
        start = min(time.monotonic() - began, MOST_START)
        trained: dict[str, TrainingTime] = {}
        unread: dict[Branch, int] = {}
        branches: dict[Branch, BranchTime] = {}
        trials: dict[str, list[TrialTime]] = {}
        if config.mode in TRAINS_ENCODERS:
            jobs = training_jobs(config, self.posts, self.specs, dict.fromkeys(self.owed, self.labelled))
            tasks = [
                _start(time_training, of_worker(config.training), job, config.space.batch_size) for job in jobs.values()
            ]
            trained = dict(zip(jobs, _results(tasks), strict=True))
        else:
            unread = self._unread()
            branches = self._time_branches(list(unread))
            trials = self._time_trials(branches)
        return Rates(
            sizes={split: len(found) for split, found in targets.items()},
            owed=self.owed,
            unread=tuple((branches[branch], number) for branch, number in unread.items()),
            trials={name: tuple(found) for name, found in trials.items()},
            trainings=trained,
            start=start,
            search=_results([searched])[0],
            seconds=time.monotonic() - began,
        )

    @property
    def _layers(self) -> bool:
        return self.config.mode == "layer-mix"

    def _unread(self) -> dict[Branch, int]:
        """The branches without features, and how many posts each is still to read."""
        found = {}
        for branch in dict.fromkeys(branch for spec in self.specs for branch in spec.branches):
            key = features_key(self.posts.folder, branch, self.posts.text, layers=self._layers)
            folder = storage.join(self.config.cache, "features", key)
            if self.config.refresh or storage.manifest(folder) is None:
                units = plan_units(self.posts.folder, self.posts.manifest["num_posts"])
                left = missing_parts(storage.join(folder, "work", "parts"), len(units))
                found[branch] = sum(units[number].num_rows for number in left)
        return found

    def _time_branches(self, branches: list[Branch]) -> dict[Branch, BranchTime]:
        each = {"GPU": 1.0} if has_gpus() else CORE
        posts, number = self.posts, self.posts.manifest["num_posts"]
        tasks = [
            _start(time_branch, each, posts.folder, number, branch, posts.text, self._layers) for branch in branches
        ]
        return dict(zip(branches, _results(tasks), strict=True))

    def _time_trials(self, branches: Mapping[Branch, BranchTime]) -> dict[str, list[TrialTime]]:
        """Draw trials of each encoder, as many of every batch size, until they took their seconds. Of an encoder that
        was tried already, those trials tell."""
        found, data = {}, {}
        for spec in self.specs:
            done = [row for row in self.ended if row["encoder"] == spec.name and row["status"] == "done"]
            found[spec.name] = [TrialTime(row["train_seconds"], row["num_epochs"], ended=True) for row in done]
            if len(done) < MIN_DRAWS:
                data[spec.name] = ray.put(self._data(spec, branches))
        sees_ends = self.num_train <= MOST_ROWS and not branches
        heads = self._heads(sees_ends)
        limit = min(max(SHARE * max(self.owed.values()), LEAST_SECONDS), MOST_SECONDS)
        for now in [heads[:MIN_DRAWS], *([head] for head in heads[MIN_DRAWS:])]:
            asked = [name for name in data if len(now) > 1 or sum(each.seconds for each in found[name]) < limit]
            pairs = [(name, head) for head in now for name in asked]
            each = of_trial(self.config.trials_per_gpu)
            timed = _results([_start(time_trial, each, data[name], head) for name, head in pairs])
            for (name, _), trial in zip(pairs, timed, strict=True):
                found[name].append(replace(trial, ended=trial.ended and sees_ends))
        return found

    def _heads(self, sees_ends: bool) -> list[HeadConfig]:
        """What drawn trials choose; those whose end tells nothing run for two epochs."""
        fixed, space = fixed_choices(self.config), self.config.space
        if not sees_ends:
            fixed = replace(fixed, max_epochs=min(2, fixed.max_epochs))
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self.config.seed))
        searched = distributions(space, self.config.mode, max(len(spec.branches) for spec in self.specs))
        drawn = [chosen(study.ask(searched).params) for _ in range(MAX_DRAWS)]
        sizes = itertools.cycle(space.batch_size)
        return [replace(fixed, **choices | {"batch_size": size}) for choices, size in zip(drawn, sizes, strict=False)]

    def _data(self, spec: EncoderSpec, branches: Mapping[Branch, BranchTime]) -> TrainingData:
        """What an encoder's trials train on; of features that are not there yet, random numbers of their size."""
        there = {branch: self._features(branch) for branch in spec.branches if branch not in branches}
        if len(there) == len(spec.branches):
            found = encoded_posts(self.posts.folder, list(there.values()), self.config.fold)
            return cut(found.for_training(), MOST_ROWS)
        known = {b: FeatureSpec(found.width, found.projection, found.num_layers) for b, found in there.items()}
        specs = {b.modality: known.get(b) or branches[b].spec for b in spec.branches}
        few = cut(self.labelled.for_training(), MOST_ROWS)
        return replace(
            few,
            specs=specs,
            train_packed=self._at_random(specs, few.train_targets),
            val_packed=self._at_random(specs, few.val_targets),
        )

    def _features(self, branch: Branch) -> Features:
        return embed(self.posts.folder, branch, self.config.cache, text=self.posts.text, layers=self._layers)

    def _at_random(self, specs: dict[str, FeatureSpec], targets: np.ndarray) -> np.ndarray:
        """Packed features of as many posts."""
        width = sum(each.packed_width for each in specs.values()) + len(specs)
        values = np.random.default_rng(self.config.seed).standard_normal((len(targets), width), np.float32)
        return values.astype(np.float16) if self._layers else values


def _start(
    function: Callable[..., Any], each: Mapping[str, float], *arguments: Any, fresh: bool = False
) -> ray.ObjectRef:
    """A task that takes what the work itself will take; a ``fresh`` one in a process that is there for it alone."""
    task: Any = ray.remote(function)
    own = {"runtime_env": {"env_vars": {"EMO_FRESH": "1"}}} if fresh else {}
    return task.options(num_cpus=each.get("CPU", 0), num_gpus=each.get("GPU", 0), **own).remote(*arguments)


def _results(tasks: list[ray.ObjectRef]) -> list[Any]:
    """What tasks give; a UserError where no node has room for them."""
    waiting = ray.wait(tasks, num_returns=len(tasks), timeout=WAIT_SECONDS)[1] if tasks else []
    for task in waiting:
        ray.cancel(task, force=True)
    if waiting:
        raise UserError(f"The cluster had no room for the calibration within {WAIT_SECONDS / 60:.0f} minutes.")
    return ray.get(tasks)
