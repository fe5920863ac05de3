"""The search: one Tune experiment, and in it one Optuna study for each encoder."""

import os
from collections.abc import Sequence
from typing import Any

import optuna
import ray.cloudpickle as pickle
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from emo import storage
from emo.config import Budget, HeadConfig, Mode, SearchSpace, SweepConfig, TrainingConfig
from emo.pruning import PruneEachEncoder
from emo.session import num_cpus
from emo.train import TrainingData
from emo.train_loop import TrainingJob
from emo.trainer import num_that_fit, run_trainer_trial
from emo.trial import COMPLETE, METRIC, run_trial
from emo.watch import Watcher


def distributions(space: SearchSpace, mode: Mode, num_modalities: int) -> dict[str, BaseDistribution]:
    """What is searched: the learning rate of pretrained weights only where they are trained, and the fusion only where
    there is something to fuse."""
    searched: dict[str, BaseDistribution] = {
        "batch_size": CategoricalDistribution(space.batch_size),
        "lr": FloatDistribution(*space.lr, log=True),
        "dropout": FloatDistribution(*space.dropout),
        "num_layers": CategoricalDistribution(space.num_layers),
        "hidden": CategoricalDistribution(space.hidden),
        "warmup_steps": IntDistribution(*space.warmup_steps),
        "loss": CategoricalDistribution(space.loss),
    }
    if mode == "full":
        searched["encoder_lr"] = FloatDistribution(*space.encoder_lr, log=True)
    if num_modalities > 1:
        searched["fusion"] = CategoricalDistribution(space.fusion)
    return searched


class StudyPerEncoder(Searcher):
    """Gives every encoder a study and a budget of its own, and turns that are fair.

    The encoder with the fewest trials so far is next. Once all have spent
    ``budget.trials``, and none of those still runs, the ``budget.refine_top`` encoders with the best value go on for
    ``budget.refine_trials`` each, in the study that they have.
    """

    def __init__(self, spaces: dict[str, dict[str, BaseDistribution]], budget: Budget, seed: int) -> None:
        """``spaces`` has what is searched for each encoder."""
        super().__init__(metric=METRIC, mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.studies = {
            name: OptunaSearch(space=space, metric=METRIC, mode="max", seed=seed + i)
            for i, (name, space) in enumerate(spaces.items())
        }
        encoders = list(spaces)
        self.budget = budget
        self.given = dict.fromkeys(encoders, 0)
        self.best = dict.fromkeys(encoders, float("-inf"))
        self.running: dict[str, str] = {}
        self.refined: list[str] | None = None

    def suggest(self, trial_id: str) -> Any:
        """The next trial's choices; None while the first phase still runs out; FINISHED when every budget is spent."""
        name = self._fewest(list(self.given), self.budget.trials)
        if name is None and self.budget.refine_trials and self.refined is None:
            if self.running:
                return None
            self.refined = sorted(self.best, key=lambda n: -self.best[n])[: self.budget.refine_top]
        if name is None and self.refined:
            name = self._fewest(self.refined, self.budget.trials + self.budget.refine_trials)
        if name is None:
            return Searcher.FINISHED
        self.given[name] += 1
        self.running[trial_id] = name
        choices = self.studies[name].suggest(trial_id)
        assert choices
        return {"encoder": name, "phase": "refine" if self.refined else "search", **choices}

    def _fewest(self, names: list[str], budget: int) -> str | None:
        open_names = [name for name in names if self.given[name] < budget]
        return min(open_names, key=lambda name: self.given[name], default=None)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.studies[self.running[trial_id]].on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        name = self.running.pop(trial_id)
        study = self.studies[name]
        if result and not error and not result.get(COMPLETE):
            # OptunaSearch would call it complete, with a value that its last epochs never had a chance to mend
            study._ot_study.tell(study._ot_trials[trial_id], state=TrialState.PRUNED)  # type: ignore[attr-defined]
            return
        study.on_trial_complete(trial_id=trial_id, result=result, error=error)
        if result and METRIC in result:
            self.best[name] = max(self.best[name], result[METRIC])

    def save(self, checkpoint_path: str) -> None:
        with open(checkpoint_path, "wb") as file:
            pickle.dump(self.__dict__, file)

    def restore(self, checkpoint_path: str) -> None:
        with open(checkpoint_path, "rb") as file:
            self.__dict__.update(pickle.load(file))  # the run's own folder; nothing foreign is read here


def fixed_choices(config: SweepConfig) -> HeadConfig:
    """What no trial of a sweep chooses."""
    return HeadConfig(
        mode=config.mode,
        max_epochs=config.budget.max_epochs,
        patience=config.patience,
        weight_decay=config.weight_decay,
        seed=config.seed,
    )


def sweep(
    run: str,
    config: SweepConfig,
    data: dict[str, TrainingData],
    jobs: dict[str, TrainingJob],
    loggers: Sequence[tune.Callback] = (),
) -> None:
    """Run every trial that the sweep owes, or those that a former process left undone in the same run folder.

    An encoder has ``data``, its cached features, or, where it is trained itself, a job for its workers.

    The trials end in ``trials.parquet`` and, the best of each encoder, in ``weights/``.
    """
    tried: dict[str, Any] = {**data, **jobs}
    encoders, budget, fixed = list(tried), config.budget, fixed_choices(config)
    spaces = {name: distributions(config.space, config.mode, each.num_modalities) for name, each in tried.items()}
    searcher = StudyPerEncoder(spaces, budget, config.seed)
    watcher = Watcher(run, encoders, budget.total_trials(len(encoders)), config.top)
    if jobs:
        run_trainings(run, jobs, fixed, searcher, config.training, [watcher, *loggers])
    else:
        run_trials(run, data, fixed, searcher, [watcher, *loggers])


def run_trials(
    run: str,
    data: dict[str, TrainingData],
    fixed: HeadConfig,
    searcher: Searcher,
    callbacks: Sequence[tune.Callback] = (),
) -> tune.ResultGrid:
    """One Tune experiment over classifiers on cached features, each of which takes a core."""
    trainable = tune.with_parameters(run_trial, data=data, fixed=fixed, run=run)
    trainable = tune.with_resources(trainable, tune.PlacementGroupFactory([{"CPU": 1}]))
    return run_experiment(run, trainable, searcher, num_cpus(), callbacks)


def run_trainings(
    run: str,
    jobs: dict[str, TrainingJob],
    fixed: HeadConfig,
    searcher: Searcher,
    training: TrainingConfig,
    callbacks: Sequence[tune.Callback] = (),
) -> tune.ResultGrid:
    """One Tune experiment over trainings of encoders, each a TorchTrainer with workers of its own; weak ones are
    stopped early."""
    trainable = tune.with_parameters(run_trainer_trial, jobs=jobs, fixed=fixed, run=run)
    # what waits for the trainer takes nothing that its workers, or the next trial's, could then wait for in vain
    trainable = tune.with_resources(trainable, tune.PlacementGroupFactory([{"memory": 1}]))
    pruner = PruneEachEncoder(run, list(jobs), fixed.max_epochs)
    results = run_experiment(run, trainable, searcher, num_that_fit(training), callbacks, pruner)
    storage.remove(storage.join(run, "training"))  # the checkpoints of trainings that were stopped early
    return results


def run_experiment(
    run: str,
    trainable: Any,
    searcher: Searcher,
    at_once: int,
    callbacks: Sequence[tune.Callback],
    scheduler: tune.schedulers.TrialScheduler | None = None,
) -> tune.ResultGrid:
    """One Tune experiment in the run's folder, over as many trials as ``searcher`` suggests."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # one Parquet file says it all
    # with a searcher Tune would keep one pending trial, and an autoscaler sees pending trials only
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(at_once)
    experiment = storage.join(storage.absolute(run), "tune")
    if tune.Tuner.can_restore(experiment):
        return tune.Tuner.restore(experiment, trainable=trainable, resume_unfinished=True).fit()
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            metric=METRIC,
            mode="max",
            num_samples=-1,
            max_concurrent_trials=at_once,
            scheduler=scheduler,
            # a new actor would import torch anew, which takes longer than a trial; a trainer has processes of its own
            reuse_actors=scheduler is None,
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=storage.absolute(run), callbacks=list(callbacks), verbose=0
        ),
    )
    return tuner.fit()
