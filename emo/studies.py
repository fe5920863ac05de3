"""The Optuna studies of a sweep, one for each encoder: the one record of what was tried, from which a run is resumed.

They lie in ``optuna.log`` in the run's folder, or in a database that several sweeps share.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from emo.config import Pruning
from emo.study_storage import Journal, open_database
from emo.trials import METRIC, REPORTED, Row, trial_row
from emo.turns import Values

ALIKE = 3
"""An encoder of which so many trials failed for one reason, and none did not, is given up."""

GRACE_EPOCHS = 2
"""No trial is stopped before."""
REDUCTION = 3
"""At each rung the best third goes on (Li et al. 2020: 4; budgets here are small)."""

_STATUS = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass
class _Encoder:
    """One encoder's study."""

    study: optuna.Study
    space: dict[str, BaseDistribution]
    number: int
    """Of the encoder."""
    rows: list[Row] = field(default_factory=list)
    """As trials.parquet has them, by the trial's number."""
    left: list[int] = field(default_factory=list)
    """Trials that a process which was killed gave out, and that nobody ended."""


class Studies:
    """What was tried of each encoder. A trial's id is the encoder's number and its own, as in ``0-17``; a trial that
    was under way when its sweep was killed is given out again under the same id with the same choices."""

    def __init__(
        self,
        run: str,
        spaces: dict[str, dict[str, BaseDistribution]],
        *,
        seed: int,
        pruning: Pruning = "none",
        max_losses: int = 0,
        database: str | None = None,
        name: str | None = None,
    ) -> None:
        """``spaces`` has what is searched for each encoder. In a ``database``, names begin with the run's."""
        self.journal = None if database else Journal(run)
        stored = self.journal.storage if self.journal else open_database(database or "")
        self.seed, self.max_losses = seed, max_losses
        self.encoders: dict[str, _Encoder] = {}
        self.given: dict[str, optuna.Trial] = {}
        """Those that run."""
        self.losses: Counter[str] = Counter()
        for number, (encoder, space) in enumerate(spaces.items()):
            study = optuna.create_study(
                storage=stored,
                study_name=f"{name}/{encoder}" if name else encoder,
                direction="maximize",
                pruner=_pruner(pruning),
                load_if_exists=True,
            )
            found = self.encoders[encoder] = _Encoder(study, space, number)
            for trial in study.get_trials(deepcopy=False):
                found.rows.append(_row(encoder, number, trial))
                if not trial.state.is_finished():
                    found.left.append(trial.number)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles what it calls; the studies stay in this process and on disk."""
        return {}

    @property
    def rows(self) -> list[Row]:
        """Those of trials.parquet."""
        return [row for each in self.encoders.values() for row in each.rows]

    @property
    def values(self) -> Values:
        reached = {"running": None, "pruned": float("-inf"), "failed": float("-inf")}
        return {
            name: [row[METRIC] if row["status"] == "done" else reached[row["status"]] for row in each.rows]
            for name, each in self.encoders.items()
        }

    def left_over(self) -> str | None:
        """An encoder with a trial that a killed sweep left."""
        return next((name for name, each in self.encoders.items() if each.left), None)

    def given_up(self) -> dict[str, str]:
        """The encoders of which the first trials all failed for one reason, and that reason."""
        return {name: reason for name, each in self.encoders.items() if (reason := _hopeless(each.rows)) is not None}

    def ask(self, encoder: str, phase: str = "search") -> Row:
        """The next trial of an encoder: its id, phase and choices. One that was left over is still in its phase."""
        found = self.encoders[encoder]
        number = found.left.pop(0) if (again := bool(found.left)) else len(found.rows)
        # each trial draws by a seed of its own, so that a sweep that was killed goes on as it would have
        seed = np.random.SeedSequence([self.seed, found.number, number]).generate_state(1)[0]
        found.study.sampler = optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
        if again:
            left = found.study.get_trials(deepcopy=False)[number]
            phase = left.user_attrs.get("phase", phase)
            trial = optuna.Trial(found.study, left._trial_id)
            for name, distribution in found.space.items():  # what was chosen stays
                trial._suggest(name, distribution)
        else:
            trial = found.study.ask(found.space)
            found.rows.append({})
        trial.set_user_attr("phase", phase)
        trial_id = f"{found.number}-{trial.number}"
        self.given[trial_id] = trial
        known = {"trial_id": trial_id, "encoder": encoder, "phase": phase, "status": "running"}
        found.rows[number] = trial_row(**trial.params, **known)
        return {"trial": trial_id, "encoder": encoder, "phase": phase, **trial.params}

    def give_back(self, trial_id: str) -> bool:
        """Let a trial whose process was lost be given out again; False where that has happened too often."""
        self.losses[trial_id] += 1
        if self.losses[trial_id] > self.max_losses:
            return False
        number = self.given.pop(trial_id).number
        self.encoders[self.encoder_of(trial_id)].left.append(number)
        return True

    def report(self, trial_id: str, epoch: int, value: float) -> bool:
        """Note what a trial has reached after so many epochs; whether it is to be stopped."""
        trial = self.given[trial_id]
        if epoch not in trial.study._storage.get_trial(trial._trial_id).intermediate_values:  # it was begun anew
            trial.report(value, epoch)
        return trial.should_prune()

    def tell(self, trial_id: str, status: str, result: dict[str, Any], error: str | None = None) -> Row:
        """Note how a trial ended, done, pruned or failed; its row."""
        trial = self.given[trial_id]
        reported = {name: result[name] for name in REPORTED if name in result}
        trial.set_user_attr("result", reported)
        if error is not None:
            trial.set_user_attr("error", error)
        state = next(state for state, name in _STATUS.items() if name == status)
        trial.study.tell(trial, result[METRIC] if status == "done" else None, state=state)
        del self.given[trial_id]
        row = self.encoders[self.encoder_of(trial_id)].rows[trial.number]
        row |= reported | {"status": status, "error": error}
        return row

    def encoder_of(self, trial_id: str) -> str:
        return list(self.encoders)[int(trial_id.split("-")[0])]

    def keep(self) -> None:
        """Bring what is known to where the run lies."""
        if self.journal:
            self.journal.keep()


def _row(encoder: str, number: int, trial: FrozenTrial) -> Row:
    known = trial.user_attrs
    return trial_row(
        **known.get("result", {}),
        **trial.params,
        trial_id=f"{number}-{trial.number}",
        encoder=encoder,
        phase=known.get("phase"),
        status=_STATUS[trial.state],
        error=known.get("error"),
    )


def _hopeless(rows: list[Row]) -> str | None:
    """The reason for which all trials failed, at least ALIKE of them; figures in it do not count."""
    ended = [row for row in rows if row["status"] != "running"]
    if len(ended) < ALIKE or any(row["status"] != "failed" for row in ended):
        return None
    kinds = Counter(re.sub(r"[-+.\d]*\d(e[-+]?\d+)?", "#", str(row["error"])) for row in ended)
    return str(ended[0]["error"]) if len(kinds) == 1 else None


def _pruner(pruning: Pruning) -> optuna.pruners.BasePruner:
    if pruning == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=GRACE_EPOCHS, reduction_factor=REDUCTION)
    if pruning == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=REDUCTION, n_warmup_steps=GRACE_EPOCHS - 1)
    return optuna.pruners.NopPruner()
