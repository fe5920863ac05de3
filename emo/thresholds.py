"""Per-label decision thresholds: fixed, searched as in the paper, or exact by one sort, on train or cross-fitted."""

import numpy as np
import optuna

from emo.metrics import macro_f1

NEVER = 2.0
"""A threshold that no probability reaches, for a label that is better never predicted."""

LEAST = 1e-9
"""What counts as a threshold of zero where probs are divided by them."""

RULES = ("fixed", "optuna", "exact", "cross-fitted")

SHRINKAGE = 20.0
"""Positives with which a label's own threshold counts as much as the one of all labels.

It is the variance of a threshold with one positive by the variance between labels, as in empirical Bayes shrinkage
(James and Stein, 1961; Efron and Morris, 1975). The best threshold is half of the best F1 (Lipton et al., 2014), whose
standard error with n positives is about 0.5 / sqrt(n): 0.25 / sqrt(n) for the threshold. Labels of one model differ by
about 0.055, and (0.25 / 0.055)^2 is 20.
"""


def decide(probs: np.ndarray, thresholds: np.ndarray, single_label: bool = False) -> np.ndarray:
    """Predicted labels (..., K), boolean: those whose probs reach their thresholds.

    With ``single_label`` it is the one whose prob is the most times its threshold: the likeliest, if these are equal.
    """
    if not single_label:
        return probs >= thresholds
    times = probs / np.maximum(thresholds, LEAST)
    return times.argmax(axis=-1)[..., None] == np.arange(probs.shape[-1])


def fixed(num_labels: int) -> np.ndarray:
    return np.full(num_labels, 0.5)


def exact(targets: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Thresholds (K,) of the highest F1 that any threshold reaches on these posts, label by label.

    Targets (N, K) are boolean, or int8 with -1 where they are unknown; a label is judged by the posts that know it.
    NEVER for a label without positives.
    """
    return np.array([_exact(y[y >= 0] == 1, p[y >= 0]) for y, p in zip(targets.T, probs.T, strict=True)])


def _exact(gold: np.ndarray, probs: np.ndarray) -> float:
    """One label's threshold: a sort of its probs (N,), then F1 at every cut by cumulative sums.

    Only cuts between distinct probs exist; the threshold is the middle of the two that it separates.
    """
    if not gold.any():
        return NEVER
    order = np.argsort(-probs)
    ranked, hits = probs[order], np.cumsum(gold[order])
    f1 = 2 * hits / (np.arange(1, len(probs) + 1) + hits[-1])
    f1[:-1][ranked[:-1] == ranked[1:]] = -1
    cut = int(f1.argmax())
    first_out = float(ranked[cut + 1]) if cut + 1 < len(probs) else 0.0
    return (float(ranked[cut]) + first_out) / 2  # float32 has no room between neighbours


def pooled(targets: np.ndarray, probs: np.ndarray) -> float:
    """The one threshold for all labels of the highest micro F1; targets as :func:`exact` takes them."""
    return _exact(targets[targets >= 0] == 1, probs[targets >= 0])


def shrunk(own: np.ndarray, common: float, num_positives: np.ndarray) -> np.ndarray:
    """Labels' own thresholds (K,) drawn towards a common one, the more the fewer positives (K,) they come from.

    NEVER stays: nothing is known of a label without positives.
    """
    weight = num_positives / (num_positives + SHRINKAGE)
    return np.where(own == NEVER, NEVER, weight * own + (1 - weight) * common)


def cross_fitted(targets: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Exact thresholds (K,) on train as models see it that were not trained on it, those of rare labels shrunk.

    Probs of posts that a model was trained on are surer than those of new posts, and so are thresholds made of them.
    """
    return shrunk(exact(targets, held_out), pooled(targets, held_out), (targets == 1).sum(axis=0))


def decide_by_train(train: tuple[np.ndarray, np.ndarray], probs: np.ndarray, single_label: bool = False) -> np.ndarray:
    """Predicted labels (N, K) with the thresholds that are exact on train (targets, probs), a matter of milliseconds;
    with ``single_label``, the most likely label."""
    return decide(probs, fixed(probs.shape[1]) if single_label else exact(*train), single_label)


def search(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    num_trials: int,
    seed: int,
    single_label: bool = False,
) -> np.ndarray:
    """Thresholds (K,) of an Optuna sweep on train, selected on val (Passaro et al., section 3).

    ``train`` and ``val`` are (targets, probs), with targets as :func:`exact` takes them. The sampler
    maximises macro F1 on train; of the threshold vectors that it tried, the one with the highest macro F1
    on val is returned, the better on train where several tie.
    """
    targets, probs = train
    val_targets, val_probs = val
    names = [str(k) for k in range(probs.shape[1])]
    tried: list[tuple[float, float, np.ndarray]] = []

    def objective(trial: optuna.Trial) -> float:
        thresholds = np.array([trial.suggest_float(name, 0.0, 1.0) for name in names])
        value = macro_f1(targets, decide(probs, thresholds, single_label))
        tried.append((macro_f1(val_targets, decide(val_probs, thresholds, single_label)), value, thresholds))
        return value

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial(dict.fromkeys(names, 0.5))
    study.optimize(objective, n_trials=num_trials)
    return max(tried, key=lambda t: t[:2])[2]


def candidates(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    num_trials: int,
    seed: int,
    single_label: bool = False,
    held_out: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The thresholds (K,) of every rule; ``held_out`` are probs (N, K) of train by models that did not see the posts,
    without which none are cross-fitted. With ``single_label`` there are no exact ones, for no label is alone."""
    found = {"fixed": fixed(train[1].shape[1]), "optuna": search(train, val, num_trials, seed, single_label)}
    if not single_label:
        found["exact"] = exact(*train)
        if held_out is not None:
            found["cross-fitted"] = cross_fitted(train[0], held_out)
    return found


def choose(thresholds: dict[str, np.ndarray], val: tuple[np.ndarray, np.ndarray], single_label: bool = False) -> str:
    """The rule whose thresholds have the highest macro F1 on val; the earlier where several tie."""
    targets, probs = val
    return max(thresholds, key=lambda rule: macro_f1(targets, decide(probs, thresholds[rule], single_label)))
