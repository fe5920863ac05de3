"""Which of Tune's trials start and stop when; which encoder they are of, :mod:`emo.turns` says."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from emo.studies import Studies
from emo.trial import COMPLETE, FAILED
from emo.trials import METRIC


class UseEveryActor(FIFOScheduler):
    """Gives an actor whose trial has ended to a new trial.

    Tune itself gives it to one that waits for an actor of its own, and then drops that one while it is still starting.
    Where trials are shorter than the start of an actor, most of a cluster would so never come to work.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        controller = tune_controller._tune_controller
        if not controller._actor_cache.num_cached_objects:
            return None  # those that wait have actors that start, or will have
        return _without_actor(controller) or (controller._update_trial_queue() and _without_actor(controller)) or None


def _without_actor(controller: Any) -> Trial | None:
    waiting = (trial for trial in controller._pending_trials if trial not in controller._trial_to_actor)
    return next(waiting, None)


class StopWeak(UseEveryActor):
    """Tells the studies what trials reach epoch by epoch, and stops those that the pruner of their study stops."""

    def __init__(self, studies: Studies, max_epochs: int) -> None:
        super().__init__()
        self.studies, self.max_epochs = studies, max_epochs

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if COMPLETE in result or FAILED in result or METRIC not in result:
            return TrialScheduler.CONTINUE
        weak = self.studies.report(trial.config["trial"], result["epoch"], result[METRIC])
        # to stop it after its last epoch would save nothing
        return TrialScheduler.STOP if weak and result["epoch"] < self.max_epochs else TrialScheduler.CONTINUE
