"""The eye on a running sweep: how trials end, progress for the person, trials.parquet, and only the best weights."""

import time
from collections import Counter
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from emo import storage
from emo.config import UserError
from emo.console import TrialProgress, warn
from emo.monitoring import SweepMetrics
from emo.patience import patiently
from emo.studies import ALIKE, Studies
from emo.trial import COMPLETE, FAILED, OUTSIDE, weights_uri, with_weights
from emo.trials import METRIC, ranked, write_trials

STOPPED = "The sweep was stopped, and can be gone on with by --resume"

WRITE_SECONDS = 10.0
"""A running sweep's trials.parquet is rewritten at most this often."""


class Watcher(tune.Callback):
    """Follows Tune's trials, and notes in the studies how each ended."""

    def __init__(self, run: str, studies: Studies, total: int, top: int) -> None:
        self.run, self.studies, self.total, self.top = run, studies, total, top
        self.last_write = time.monotonic()
        self.broken: Exception | None = None
        self.metrics = SweepMetrics(run, list(studies.encoders))
        self._measure()
        self.given_up = set(studies.given_up())
        self.progress = TrialProgress(total, already_done=sum(row["status"] != "running" for row in studies.rows))

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it calls, and this belongs to the process that shows the sweep."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" in result and METRIC in result:
            self.progress.show_epoch(trial.config["encoder"], result["epoch"], result[METRIC])

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """End the sweep where it cannot go on: what is raised as a trial ends, Tune would take for its fault."""
        if self.broken:
            raise self.broken
        if len(self.studies.given) != self.num_running:  # trials were given out since the last one ended
            self._measure()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        try:
            self._completed(trial, trial.last_result or {})
        except Exception as error:
            self.broken = error

    def _completed(self, trial: Trial, result: dict[str, Any]) -> None:
        if result.get(OUTSIDE):
            raise UserError(f"{STOPPED}: {result[FAILED]}.")
        if FAILED in result:
            self._ended(trial, "failed", result[FAILED])
        elif result.get(COMPLETE):
            self._ended(trial, "done")
        elif METRIC in result:
            self._ended(trial, "pruned")
        else:
            self._ended(trial, "failed", "the trial ended without a result")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial whose process was lost: Tune itself would run it again only where it had well begun."""
        error = str(trial.get_error() or "its process was lost").strip().splitlines()[0]
        if self.broken:
            return
        if self.studies.give_back(trial.config["trial"]):
            warn(f"trial {trial.config['trial']} of {trial.config['encoder']} is run again: {error}")
        else:
            self._ended(trial, "failed", error)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        patiently(self.run, self.write)
        self.progress.stop()

    def _ended(self, trial: Trial, status: str, error: str | None = None) -> None:
        self.studies.tell(trial.config["trial"], status, trial.last_result or {}, error)
        self._show()
        for name, reason in self.studies.given_up().items():
            if name not in self.given_up:
                self.given_up.add(name)
                warn(f"{name} is given up, since its first {ALIKE} trials failed alike: {reason}")
        if time.monotonic() - self.last_write >= WRITE_SECONDS:
            patiently(self.run, self.write)

    def _show(self) -> None:
        counts, best = self._measure()
        over = {name: found.total() - found["running"] for name, found in counts.items()}
        reached = max((value for value in best.values() if value is not None), default=None)
        failed = sum(found["failed"] for found in counts.values())
        self.progress.update(sum(over.values()), reached, over, failed)

    def _measure(self) -> tuple[dict[str, Counter[str]], dict[str, float | None]]:
        """How many trials of each encoder have each status, and its best value; Ray's metrics have it then, too."""
        counts: dict[str, Counter[str]] = {name: Counter() for name in self.studies.encoders}
        best: dict[str, float | None] = dict.fromkeys(self.studies.encoders)
        for row in self.studies.rows:
            name = row["encoder"]
            counts[name][row["status"]] += 1
            if row["status"] == "done":
                best[name] = max(row[METRIC], best[name] or 0.0)
        self.num_running = len(self.studies.given)
        self.metrics.update(dict(counts), best, self.total)
        return counts, best

    def write(self) -> None:
        """Write down what is known, and only then delete the weights of trials that are not among the best of it."""
        self.last_write = time.monotonic()
        rows = self.studies.rows
        self.studies.keep()
        write_trials(self.run, rows)
        kept = with_weights(self.run)
        for name in self.studies.encoders:
            for row in ranked(rows, name)[self.top :]:
                if row["trial_id"] in kept:
                    storage.remove(weights_uri(self.run, row["trial_id"]))
