"""Stopping trials early: asynchronous successive halving over epochs, for each encoder by itself."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from emo import storage
from emo.trial import COMPLETE, METRIC

GRACE_EPOCHS = 2
"""No trial is stopped before."""
REDUCTION = 3
"""At each rung the best third goes on (Li et al. 2020: 4; budgets here are small)."""


class PruneEachEncoder(FIFOScheduler):
    """An ASHA for each encoder, as a slow starter must not be judged by another's scores.

    Tune restores trials and searcher after a kill, but no scheduler: what the rungs recorded lies in the run's folder.
    """

    def __init__(self, run: str, encoders: list[str], max_epochs: int) -> None:
        super().__init__()
        self.uri, self.max_epochs = storage.join(run, "rungs.json"), max_epochs
        self.recalled = False
        self.halvings = {
            name: AsyncHyperBandScheduler(
                time_attr="epoch",
                metric=METRIC,
                mode="max",
                max_t=max(max_epochs, GRACE_EPOCHS),
                grace_period=GRACE_EPOCHS,
                reduction_factor=REDUCTION,
                stop_last_trials=False,
            )
            for name in encoders
        }

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        if not self.recalled:
            self.recalled = True
            self._recall()
        self._halving(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if result.get(COMPLETE) or result["epoch"] >= self.max_epochs:  # to stop it now would save nothing
            return TrialScheduler.CONTINUE
        decision = self._halving(trial).on_trial_result(tune_controller, trial, result)
        self._remember()
        return decision

    def _halving(self, trial: Trial) -> AsyncHyperBandScheduler:
        return self.halvings[trial.config["encoder"]]

    def _rungs(self, name: str) -> list[tuple[float, dict[str, float]]]:
        return self.halvings[name]._brackets[0]._rungs

    def _remember(self) -> None:
        storage.write_json(self.uri, {name: [scores for _, scores in self._rungs(name)] for name in self.halvings})

    def _recall(self) -> None:
        if storage.exists(self.uri):
            for name, rungs in storage.read_json(self.uri).items():
                for (_, scores), recorded in zip(self._rungs(name), rungs, strict=True):
                    scores.update(recorded)
