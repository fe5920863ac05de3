"""Probabilities that say how often they are right: one temperature a model, or a curve for each label.

Which labels a post has is never decided by these, but by the model's own probs and thresholds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, logsumexp, softmax
from sklearn.isotonic import IsotonicRegression

from emo.config import Probabilities
from emo.reliability import LEAST_PROB, known
from emo.thresholds import LEAST, NEVER

TEMPERATURES = 0.05, 20.0
"""The lowest and the highest: held-out posts that are all read rightly, or by chance, would ask for 0 or infinity."""

SAME = np.array([[0.0, 1.0], [0.0, 1.0]])
"""The curve that leaves probs as they are."""


@dataclass(frozen=True)
class Calibrator:
    """What is done to a model's probs; nothing, where neither is given."""

    temperature: float | None = None
    """Logits are divided by it (Guo et al., 2017)."""
    curves: tuple[np.ndarray, ...] | None = None
    """For each label, probs and what becomes of them (2, P), both rising; straight in between and flat outside."""

    @property
    def kind(self) -> Probabilities:
        return "temperature" if self.temperature is not None else "isotonic" if self.curves is not None else "raw"

    def apply(self, probs: np.ndarray, single_label: bool = False) -> np.ndarray:
        """Probs (N, K) as they are to be taken, of the same dtype."""
        if self.temperature is not None:
            logits = logits_of(probs, single_label) / self.temperature
            return (softmax(logits, axis=-1) if single_label else expit(logits)).astype(probs.dtype)
        if self.curves is not None:
            columns = [np.interp(column, *curve) for column, curve in zip(probs.T, self.curves, strict=True)]
            return np.stack(columns, axis=1).astype(probs.dtype)
        return probs

    def thresholds(self, raw: np.ndarray, single_label: bool = False) -> np.ndarray:
        """What thresholds (K,) on raw probs are on these; NEVER stays.

        Where a curve is flat, a post just below its threshold has the prob of one just above.
        """
        if single_label:  # only how many times its threshold a prob is counts, and a temperature takes roots of both
            return raw if self.temperature is None else np.maximum(raw, LEAST) ** (1 / self.temperature)
        return np.where(raw == NEVER, NEVER, self.apply(np.minimum(raw, 1.0)[None])[0])


RAW = Calibrator()


def fit_calibrator(
    kind: Probabilities, targets: np.ndarray, probs: np.ndarray, single_label: bool = False
) -> Calibrator:
    """The calibrator that is best on these posts, which the model must not have been trained on.

    Targets (N, K) are boolean, or int8 with -1 where unknown; curves are for models that decide label by label.
    """
    if kind == "temperature":
        return Calibrator(temperature=fit_temperature(targets, probs, single_label))
    if kind == "isotonic":
        return Calibrator(curves=tuple(_curve(*known(y, p)) for y, p in zip(targets.T, probs.T, strict=True)))
    return RAW


def fit_temperature(targets: np.ndarray, probs: np.ndarray, single_label: bool = False) -> float:
    """The temperature of the lowest log loss over all known cells, or posts; 1 where none is lower than without."""
    logits, cells = logits_of(probs, single_label), targets >= 0
    if single_label:
        gold = logits[targets == 1]
        logits = np.where(cells, logits, -np.inf)
    else:
        logits, gold = logits[cells], targets[cells] == 1
    if not len(gold):
        return 1.0

    def loss(log_temperature: float) -> float:
        by = np.exp(-log_temperature)
        if single_label:
            return float((logsumexp(logits * by, axis=1) - gold * by).mean())
        return float((np.logaddexp(0, logits * by) - gold * logits * by).mean())

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def logits_of(probs: np.ndarray, single_label: bool) -> np.ndarray:
    """Logits, float64, of which probs are made by the sigmoid; or, up to a constant, by softmax."""
    inside = np.clip(probs.astype(np.float64), LEAST_PROB, 1 - LEAST_PROB)
    return np.log(inside) if single_label else logit(inside)


def _curve(gold: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """One label's isotonic regression (Zadrozny and Elkan, 2002) over the posts that know it, (2, P).

    By the rule of succession no prob becomes 0 or 1. A label that all of the posts have, or none, stays as it is.
    """
    if gold.all() or not gold.any():
        return SAME
    least = 1 / (len(gold) + 2)
    found = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(probs, gold)
    return np.stack([found.X_thresholds_, found.y_thresholds_])


def to_json(calibrator: Calibrator) -> dict[str, Any]:
    """As bundles and tables keep it."""
    curves = calibrator.curves
    return {
        "kind": calibrator.kind,
        "temperature": calibrator.temperature,
        "curves": None if curves is None else [curve.tolist() for curve in curves],
    }


def from_json(content: dict[str, Any]) -> Calibrator:
    """The inverse of :func:`to_json`."""
    curves = content["curves"]
    return Calibrator(content["temperature"], None if curves is None else tuple(np.array(curve) for curve in curves))
