"""The search: one Tune experiment, and in it one Optuna study for each encoder."""

import os
import tempfile
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from emo import storage
from emo.config import HeadConfig, Mode, Round, SearchSpace, SweepConfig, UserError
from emo.errors import in_words
from emo.monitoring import run_name
from emo.room import grows, of_trial, trainings_that_fit, trials_that_fit
from emo.scheduling import StopWeak
from emo.studies import Studies
from emo.train import TrainingData
from emo.train_loop import TrainingJob
from emo.trainer import run_trainer_trial
from emo.trial import run_trial
from emo.trials import METRIC
from emo.turns import SweepOver, next_turn
from emo.watch import STOPPED, Watcher


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


class TakeTurns(Searcher):
    """Asks the study of the encoder whose turn it is."""

    def __init__(self, studies: Studies, rounds: Sequence[Round], top: int) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.studies, self.rounds, self.top = studies, rounds, top

    def suggest(self, trial_id: str) -> Any:
        """The next trial's choices; FINISHED when every budget is spent. None while trials run that a round waits for,
        or that may have to be given out again."""
        if (encoder := self.studies.left_over()) is not None:
            return self.studies.ask(encoder)
        try:
            turn = next_turn(self.studies.values, self.rounds, self.top, self.studies.given_up())
        except SweepOver:
            return None if self.studies.given else Searcher.FINISHED
        return turn and self.studies.ask(turn[0], turn[1].phase)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The watcher, who knows why a trial failed, tells the studies."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: what Tune would restore is in the studies."""


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
    name: str | None = None,
    callbacks: Sequence[tune.Callback] = (),
) -> None:
    """Run every trial that the sweep owes, or those that a former process left undone in the same run folder.

    An encoder has ``data``, its cached features, or, where it is trained itself, a job for its workers. ``name`` tells
    the run from others in a database of studies.

    The trials end in ``trials.parquet`` and, the best of each encoder, in ``weights/``. A UserError tells of a disk, a
    store or a database that failed; the sweep can then be gone on with.
    """
    tried: dict[str, Any] = {**data, **jobs}
    budget, fixed = config.budget, fixed_choices(config)
    prunes_by = config.pruning if config.pruning != "auto" else "asha" if jobs else "none"
    with in_words(STOPPED):
        studies = Studies(
            run,
            {encoder: distributions(config.space, config.mode, each.num_modalities) for encoder, each in tried.items()},
            seed=config.seed,
            pruning=prunes_by,
            max_losses=config.training.max_failures,
            database=config.optuna_storage,
            name=name,
        )
        if not studies.rows and storage.exists(storage.join(run, "trials.parquet")):
            raise UserError(f"{run} has trials, but their studies are gone, so that it cannot be gone on with.")
        total = budget.total_trials(len(tried))
        watcher = Watcher(run, studies, total, config.top)
        searcher = TakeTurns(studies, budget.rounds(len(tried)), config.top)
        if jobs:
            trainable = tune.with_parameters(run_trainer_trial, jobs=jobs, fixed=fixed, run=run)
            # what waits for the trainer takes nothing that its workers, or the next trial's, could wait for in vain
            each, room = {"memory": 1.0}, trainings_that_fit(config.training)
        else:
            tells = prunes_by != "none"
            trainable = tune.with_parameters(run_trial, data=data, fixed=fixed, run=run, tells_epochs=tells)
            each, room = of_trial(config.trials_per_gpu), trials_that_fit(config.trials_per_gpu)
        trainable.__name__ = run_name(run)  # by which Ray's dashboard lists its actors
        run_experiment(
            tune.with_resources(trainable, tune.PlacementGroupFactory([each])),
            searcher,
            StopWeak(studies, budget.max_epochs),
            at_once=config.trials_at_once or (None if grows() and not jobs else room),
            waiting=room,
            callbacks=[watcher, *callbacks],
            # a new actor would import torch anew, which takes longer than a trial; a trainer has processes of its own
            reuse_actors=not jobs,
        )
    storage.remove(storage.join(run, "training"))  # the checkpoints of trainings that were stopped early


def run_experiment(
    trainable: Any,
    searcher: Searcher,
    scheduler: TrialScheduler,
    *,
    at_once: int | None,
    waiting: int,
    callbacks: Sequence[tune.Callback],
    reuse_actors: bool,
) -> tune.ResultGrid:
    """One Tune experiment over as many trials as ``searcher`` suggests, of which so many run or wait ``at_once``, or as
    many as there is room for and so many that are ``waiting`` for it."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # one Parquet file says it all
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial that failed has none
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(waiting)
    with tempfile.TemporaryDirectory(prefix="emo-tune-") as folder:  # of what Tune writes, nothing is needed
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                metric=METRIC,
                mode="max",
                num_samples=-1,
                max_concurrent_trials=at_once,
                scheduler=scheduler,
                reuse_actors=reuse_actors,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder,
                callbacks=list(callbacks),
                verbose=0,
            ),
        )
        return tuner.fit()
