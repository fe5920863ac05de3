"""What a run folder holds."""

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from emo import storage
from emo.config import Budget, SweepConfig, UserError, from_dict
from emo.cost import taken
from emo.looks import read_looks


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run folder holds so far; None for what it does not hold yet."""

    uri: str
    config: dict[str, Any]
    posts: dict[str, Any] | None
    trials: pd.DataFrame | None
    calibration: pd.DataFrame | None
    probabilities: pd.DataFrame | None
    leaderboard: dict[str, Any] | None
    examples: pd.DataFrame | None
    predictions: pd.DataFrame | None
    """Probabilities of the best model."""
    looks: list[dict[str, Any]]
    """Those at the test split."""
    cost: dict[str, Any] | None = None
    """What the run took."""

    @property
    def budget(self) -> Budget:
        return from_dict(SweepConfig, self.config["config"]).budget

    @property
    def single_label(self) -> bool:
        """Whether models give each post exactly one label."""
        return "softmax" in from_dict(SweepConfig, self.config["config"]).space.loss

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.leaderboard["rows"] if self.leaderboard else []

    @property
    def best_row(self) -> dict[str, Any] | None:
        """The leaderboard row of the encoder that the best model builds on."""
        return (
            next((row for row in self.rows if row["name"] == self.leaderboard["best"]["encoder"]), None)
            if self.leaderboard
            else None
        )

    @property
    def best_model(self) -> dict[str, Any] | None:
        """The one model that ``model/`` holds, under the rule that val chose."""
        if self.calibration is None or self.leaderboard is None:
            return None
        table, best = self.calibration, self.leaderboard["best"]
        found = table[(table["trial_id"] == best["trial_id"]) & (table["rule"] == best["rule"])]
        return found.iloc[0].to_dict() if len(found) else None

    @property
    def finished_trials(self) -> pd.DataFrame:
        """The trials with a score, best first."""
        if self.trials is None or "val/macro_f1" not in self.trials:
            return pd.DataFrame({"trial_id": [], "encoder": [], "val/macro_f1": []})
        scores = pd.to_numeric(self.trials["val/macro_f1"], errors="coerce")
        done = self.trials.assign(**{"val/macro_f1": scores})[(self.trials["status"] == "done") & np.isfinite(scores)]
        return done.sort_values("val/macro_f1", ascending=False, kind="stable")

    @property
    def encoders(self) -> list[str]:
        """Encoder names, best by val first."""
        ranked = [row["name"] for row in self.rows if row["kind"] == "encoder"]
        return ranked or list(
            dict.fromkeys([*self.finished_trials["encoder"], *(e["name"] for e in self.config["encoders"])])
        )


def read_run(uri: str) -> Run:
    config = _json(uri, "config.json")
    if config is None:
        raise UserError(f"{uri} is no run folder, since it has no config.json; name the --output of a sweep.")
    leaderboard = _json(uri, "leaderboard.json")
    return Run(
        uri=uri,
        config=config,
        posts=_json(uri, "posts.json"),
        trials=_table(uri, "trials.parquet"),
        calibration=_table(uri, "calibration.parquet"),
        probabilities=_table(uri, "probabilities.parquet"),
        leaderboard=leaderboard,
        examples=_table(uri, "examples.parquet"),
        predictions=_table(uri, f"predictions/{leaderboard['best']['trial_id']}.parquet") if leaderboard else None,
        looks=read_looks(uri),
        cost=_json(uri, taken.FILE),
    )


def _json(uri: str, name: str) -> Any:
    path = storage.join(uri, name)
    return storage.read_json(path) if storage.exists(path) else None


def _table(uri: str, name: str) -> pd.DataFrame | None:
    path = storage.join(uri, name)
    return pd.read_parquet(io.BytesIO(storage.read_bytes(path))) if storage.exists(path) else None


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows, with None where pandas has NaN."""
    return [
        {str(name): None if _is_nan(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
