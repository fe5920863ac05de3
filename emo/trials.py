"""trials.parquet: one row for each trial of a run."""

import dataclasses
from typing import Any

import pyarrow as pa

from emo import storage
from emo.config import SearchSpace
from emo.metrics import METRICS
from emo.tables import read_table, write_table

METRIC = "val/macro_f1"
"""What Optuna maximises."""

PARAMETERS = tuple(field.name for field in dataclasses.fields(SearchSpace))
"""What a trial chooses; each is a field of HeadConfig."""

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
        *((f"val/{name}", pa.float64()) for name in METRICS),
        ("num_epochs", pa.int64()),
        ("best_epoch", pa.int64()),
        ("train_seconds", pa.float64()),
        ("history", pa.string()),
    ]
)
"""The status is done, pruned, failed or running; what a trial has not reported is null."""

REPORTED = (*(f"val/{name}" for name in METRICS), "num_epochs", "best_epoch", "train_seconds", "history")
"""What a trial reports at its end."""

Row = dict[str, Any]


def trial_row(**known: Any) -> Row:
    """A row of what is known of a trial; all else is null."""
    return dict.fromkeys(SCHEMA.names) | known


def ranked(rows: list[Row], encoder: str) -> list[Row]:
    """An encoder's finished trials, the best on val first; the trial id breaks ties, alike on every machine."""
    done = [row for row in rows if row["encoder"] == encoder and row["status"] == "done"]
    return sorted(done, key=lambda row: (-row[METRIC], row["trial_id"]))


def write_trials(run: str, rows: list[Row]) -> None:
    write_table(storage.join(run, "trials.parquet"), pa.Table.from_pylist(rows, schema=SCHEMA))


def read_trials(run: str) -> list[Row]:
    return read_table(storage.join(run, "trials.parquet")).to_pylist()
