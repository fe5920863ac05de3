"""The eye on a running sweep: progress for the person, trials.parquet, and only the best weights kept."""

import time
from typing import Any

import pyarrow as pa
from ray import tune
from ray.tune.experiment import Trial

from emo import storage
from emo.console import TrialProgress
from emo.tables import read_table, write_table
from emo.trial import COMPLETE, METRIC, PARAMETERS, weights_uri

WRITE_SECONDS = 10.0
"""A running sweep's trials.parquet is rewritten at most this often."""

_METRICS = ("macro_f1", "micro_f1", "weighted_f1", "subset_accuracy", "jaccard", "hamming")

SCHEMA = pa.schema(
    [
        ("trial_id", pa.string()),
        ("encoder", pa.string()),
        ("phase", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("batch_size", pa.int64()),
        ("lr", pa.float64()),
        ("encoder_lr", pa.float64()),
        ("dropout", pa.float64()),
        ("num_layers", pa.int64()),
        ("hidden", pa.int64()),
        ("warmup_steps", pa.int64()),
        ("loss", pa.string()),
        ("fusion", pa.string()),
        *((f"val/{name}", pa.float64()) for name in _METRICS),
        ("num_epochs", pa.int64()),
        ("best_epoch", pa.int64()),
        ("train_seconds", pa.float64()),
        ("history", pa.string()),
    ]
)
"""One row a trial, whose status is done, pruned, failed or running; what it has not reported is null."""

_STATUS = {Trial.TERMINATED: "done", Trial.ERROR: "failed"}


class Watcher(tune.Callback):
    """Follows Tune's trials. It is pickled with the experiment, so what it shows is made anew by every process."""

    def __init__(self, run: str, encoders: list[str], total: int, top: int) -> None:
        self.run, self.encoders, self.total, self.top = run, encoders, total, top
        self.progress: TrialProgress | None = None
        self.last_write = 0.0
        self.weightless: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"progress": None, "last_write": 0.0}

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._look(trials, trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" in result and METRIC in result:
            self._shown(trials).show_epoch(trial.config["encoder"], result["epoch"], result[METRIC])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._look(trials, trial)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        write_trials(self.run, [trial_row(trial) for trial in trials])
        if self.progress:
            self.progress.stop()

    def _look(self, trials: list[Trial], ended: Trial) -> None:
        # Tune tells of a trial's end before it sets the status of that trial
        rows = [trial_row(trial, ended=trial.trial_id == ended.trial_id) for trial in trials]
        over = [row for row in rows if row["status"] != "running"]
        progress = self._shown(trials)
        values = [row[METRIC] for row in over if row[METRIC] is not None]
        by_encoder = {name: sum(row["encoder"] == name for row in over) for name in self.encoders}
        failed = sum(row["status"] == "failed" for row in over)
        progress.update(len(over), max(values, default=None), by_encoder, failed)
        if time.monotonic() - self.last_write >= WRITE_SECONDS:
            self.last_write = time.monotonic()
            write_trials(self.run, rows)
        self._drop_weights(rows, ended)

    def _shown(self, trials: list[Trial]) -> TrialProgress:
        if self.progress is None:
            over = sum(trial_row(trial)["status"] != "running" for trial in trials)
            self.progress = TrialProgress(self.total, already_done=over)
        return self.progress

    def _drop_weights(self, rows: list[dict[str, Any]], ended: Trial) -> None:
        """Delete the weights of trials of this encoder that fell out of its best."""
        for row in ranked(rows, ended.config["encoder"])[self.top :]:
            if row["trial_id"] not in self.weightless:
                self.weightless.add(row["trial_id"])
                fs, path = storage.filesystem(weights_uri(self.run, row["trial_id"]))
                if fs.exists(path):
                    fs.rm(path)


def ranked(rows: list[dict[str, Any]], encoder: str) -> list[dict[str, Any]]:
    """An encoder's finished trials, the best on val first; the trial id breaks ties, alike on every machine."""
    done = [row for row in rows if row["encoder"] == encoder and row["status"] == "done"]
    return sorted(done, key=lambda row: (-row[METRIC], row["trial_id"]))


def trial_row(trial: Trial, ended: bool = False) -> dict[str, Any]:
    """What trials.parquet says of a trial."""
    result = trial.last_result or {}
    status = _STATUS.get(trial.status, "running")
    if ended and status == "running":
        status = "done" if METRIC in result else "failed"
    if status == "done" and not result.get(COMPLETE):
        status = "pruned" if METRIC in result else "failed"
    reported = [field.name for field in SCHEMA if field.name in result]
    return (
        dict.fromkeys(SCHEMA.names)
        | {name: result[name] for name in reported}
        | {name: trial.config.get(name) for name in ("encoder", "phase", *PARAMETERS)}
        | {"trial_id": trial.trial_id, "status": status, "error": _reason(trial) if status == "failed" else None}
    )


def _reason(trial: Trial) -> str:
    """The last line of the trial's traceback, which is its exception."""
    error = trial.get_error()
    return str(error).strip().splitlines()[-1] if error else "the trial ended without a result"


def write_trials(run: str, rows: list[dict[str, Any]]) -> None:
    write_table(storage.join(run, "trials.parquet"), pa.Table.from_pylist(rows, schema=SCHEMA))


def read_trials(run: str) -> list[dict[str, Any]]:
    return read_table(storage.join(run, "trials.parquet")).to_pylist()
