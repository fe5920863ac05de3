"""From rates that were measured to the stages of a sweep on some nodes: arithmetic alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from emo.config import TRAINS_ENCODERS, SweepConfig
from emo.cost.estimate import Fleet, Stage, drift, epochs_between, halved, of_posts, of_trials
from emo.cost.timing import BranchTime, TrainingTime, TrialTime
from emo.cross_fit import NUM_FOLDS
from emo.encode import ROWS_PER_ACTOR
from emo.room import of_trial
from emo.studies import GRACE_EPOCHS, REDUCTION

MOST_ROWS = 20_000
"""Of a larger corpus, drawn trials train on so many posts."""
STARTS = 4
"""All that is not measured, the start of processes for each stage, baselines and the report, is taken to last as long
as so many starts of a process one after the other."""
TRAINER_SECONDS = 20.0
"""Until Ray Train has started the workers of a training. This is not measured."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a calibration run has measured for a sweep."""

    sizes: Mapping[str, int]
    """Labelled posts of each split."""
    owed: Mapping[str, int]
    """Trials that each encoder is still to have."""
    unread: tuple[tuple[BranchTime, int], ...] = ()
    """Branches whose features are not there yet, with the posts that they are to read."""
    trials: Mapping[str, tuple[TrialTime, ...]]
    """Of each encoder, on cached features."""
    trainings: Mapping[str, TrainingTime]
    """Of each encoder, where it is trained itself."""
    start: float
    """Seconds until a process was there with what it imports."""
    search: float
    """Seconds of a search of thresholds."""
    seconds: float
    """That the calibration took."""

    @property
    def num_cut(self) -> int:
        """Trials that were not timed to their end."""
        return sum(not trial.ended for trials in self.trials.values() for trial in trials)

    @property
    def num_trials(self) -> int:
        return sum(map(len, self.trials.values()))


def epochs(config: SweepConfig) -> tuple[float, float]:
    """Between how many epochs a trial is taken to need that was not seen to its end: at least half of the most, since
    most learning rates are low; or, with pruning, what that leaves of trials that are all alike."""
    most = config.budget.max_epochs
    prunes = config.pruning not in (("none",) if config.mode in TRAINS_ENCODERS else ("none", "auto"))
    least = halved(most, GRACE_EPOCHS, REDUCTION) if prunes else max(most / 2, config.patience + 1)
    return min(least, most), most


def stages(config: SweepConfig, rates: Rates, fleet: Fleet) -> list[Stage]:
    """What the sweep does on these nodes, one after the other."""
    found = _with_trained_encoders(config, rates, fleet) if rates.trainings else _on_features(config, rates, fleet)
    rest = STARTS * rates.start
    return [Stage("start and report", rest, rest / 3), *found]


def _on_features(config: SweepConfig, rates: Rates, fleet: Fleet) -> list[Stage]:
    drawn = {name: [_seconds(config, rates, each) for each in trials] for name, trials in rates.trials.items()}
    found = [_features(rates, fleet)] if rates.unread else []
    if any(rates.owed.values()):
        error = epochs_between(*epochs(config))[1] * rates.num_cut / rates.num_trials
        slots = _at_once(config, fleet.slots(of_trial(config.trials_per_gpu)))
        found.append(of_trials(drawn, rates.owed, slots, drift(config.space), error))
    repeats = NUM_FOLDS - 1 if "softmax" not in config.space.loss else 0
    mean = float(np.mean([np.mean(seconds) for seconds in drawn.values()]))
    return [*found, _thresholds(config, rates, fleet, repeats * mean)]


def _features(rates: Rates, fleet: Fleet) -> Stage:
    most = max(1, int(fleet.gpus or fleet.cpus))
    parts = [
        of_posts(number, branch.seconds, branch.start, min(most, -(-number // ROWS_PER_ACTOR)))
        for branch, number in rates.unread
        if number
    ]
    seconds, errors = zip((0.0, 0.0), *parts, strict=True)
    return Stage("features", sum(seconds), float(np.linalg.norm(errors)))


def _seconds(config: SweepConfig, rates: Rates, trial: TrialTime) -> float:
    """Of a whole trial on all posts."""
    if trial.ended:
        return trial.seconds
    low, high = epochs(config)
    expected, _ = epochs_between(max(low, min(trial.num_epochs, high)), high)
    return trial.seconds / trial.num_epochs * expected * max(1.0, rates.sizes["train"] / MOST_ROWS)


def _with_trained_encoders(config: SweepConfig, rates: Rates, fleet: Fleet) -> list[Stage]:
    training, workers = config.training, config.training.num_workers[0]
    gpu = training.use_gpu != "no" and fleet.gpus >= 1
    each = {"CPU": float(workers * training.cpus_per_worker)} | ({"GPU": float(workers)} if gpu else {})
    slots = _at_once(config, fleet.teams(each))
    readers = max(1.0, fleet.cpus / slots / workers) if gpu else None
    expected, error = epochs_between(*epochs(config))
    drawn = {}
    for name, rate in rates.trainings.items():
        judged = rates.sizes["val"] * _read_and(rate, rate.judging, readers)
        a_post = [_read_and(rate, seconds, readers) for seconds in rate.training.values()]
        epoch = [(rates.sizes["train"] * seconds + judged) / workers for seconds in a_post]
        drawn[name] = [TRAINER_SECONDS + rate.start + expected * seconds for seconds in epoch]
    found = [of_trials(drawn, rates.owed, slots, drift(config.space), error)] if any(rates.owed.values()) else []
    scored = [_read_and(rate, rate.judging, readers) for rate in rates.trainings.values()]
    scores = (
        _num_kept(config) * sum(rates.sizes.values()) * sum(scored) / max(1, int(fleet.gpus if gpu else fleet.cpus))
    )
    return [*found, Stage("scores", scores, scores / 10), _thresholds(config, rates, fleet, 0.0)]


def _read_and(rate: TrainingTime, computing: float, readers: float | None) -> float:
    """Seconds of a post that so many cores read while another is computed; or that is read before, on the same core."""
    return computing + rate.reading if readers is None else max(computing, rate.reading / readers)


def _thresholds(config: SweepConfig, rates: Rates, fleet: Fleet, again: float) -> Stage:
    """Of the kept models: each is trained ``again`` for so many seconds, and its thresholds are searched."""
    num_models = _num_kept(config) * (len(rates.trials) + len(rates.trainings))
    seconds = num_models * (again + rates.search) / max(1.0, fleet.cpus)
    return Stage("thresholds", seconds, seconds / 3)  # the best models may take longer than those that were drawn


def _num_kept(config: SweepConfig) -> int:
    """Models of each encoder."""
    return min(config.top, config.budget.trials)


def _at_once(config: SweepConfig, room: int) -> int:
    return min(room, config.trials_at_once or room)


def because(config: SweepConfig, rates: Rates) -> list[str]:
    """What an estimate from these rates rests on."""
    counts = {"trials": rates.num_trials, "branches of encoders": len(rates.unread), "encoders": len(rates.trainings)}
    timed = [f"{number} {what}" for what, number in counts.items() if number]
    low, high = (f"{number:.0f}" for number in epochs(config))
    needed = f"{low} to {high}" if low != high else high
    unseen = f"{rates.num_cut} of these trials, stopped before their end," if rates.num_trials else "trials"
    return [
        f"{' and '.join(timed)}, timed in {rates.seconds:.0f} s on this cluster",
        *([f"{unseen} are taken to need {needed} epochs"] if rates.num_cut or rates.trainings else []),
        "the interval has their spread, and that a search may settle on any of its batch sizes",
        f"start and report are taken as {STARTS} times the {rates.start:.0f} s in which a process started",
    ]
