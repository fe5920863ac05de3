"""What thresholds cost: the exact ones by one sort against 500 Optuna trials (Passaro et al., section 3).

Macro F1 on the predictions that both are fitted on, and seconds, for K labels and N posts. Limits: the exact ones are
never worse, and at least 10 times faster. Where 500 trials would take longer than LONGEST, as many are run as fit into
that, and their time is multiplied.
"""

import time

import numpy as np
import optuna
import pytest
from measure import seconds, show
from scipy.special import expit

from emo.metrics import macro_f1
from emo.thresholds import decide, exact

pytestmark = pytest.mark.bench

NUM_TRIALS, LONGEST = 500, 60.0
FASTER = 10


def predictions(num_posts: int, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N, K), of labels that 2 to 30 % of the posts have, and probs float32 that tell them in part."""
    rng = np.random.default_rng(0)
    targets = rng.random((num_posts, num_labels)) < np.linspace(0.02, 0.3, num_labels)
    return targets, expit(2.0 * targets - 2.5 + rng.normal(size=targets.shape)).astype(np.float32)


def optuna_trials(targets: np.ndarray, probs: np.ndarray) -> tuple[float, float, int]:
    """The best macro F1 of a study that sees these posts only, the seconds of NUM_TRIALS, and how many were run."""
    names = [str(k) for k in range(probs.shape[1])]

    def objective(trial: optuna.Trial) -> float:
        return macro_f1(targets, decide(probs, np.array([trial.suggest_float(name, 0.0, 1.0) for name in names])))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, multivariate=True))
    study.enqueue_trial(dict.fromkeys(names, 0.5))
    started = time.perf_counter()
    study.optimize(objective, n_trials=NUM_TRIALS, timeout=LONGEST)
    taken, num_run = time.perf_counter() - started, len(study.trials)
    return study.best_value, taken * NUM_TRIALS / num_run, num_run


@pytest.mark.parametrize("num_posts", [900, 50_000, 1_000_000])
@pytest.mark.parametrize("num_labels", [9, 28])
def test_exact_thresholds(num_labels: int, num_posts: int) -> None:
    targets, probs = predictions(num_posts, num_labels)
    best, searched, num_run = optuna_trials(targets, probs)
    sorting = min(seconds(lambda: exact(targets, probs)) for _ in range(3))
    name = f"thresholds of {num_labels} labels, {num_posts:,} posts"
    reached = macro_f1(targets, decide(probs, exact(targets, probs)))
    assert show(f"{name}, macro F1", reached, best, "F1", ">= 1") >= 1
    ran = "" if num_run == NUM_TRIALS else f", from {num_run} trials"
    faster = show(f"{name}{ran}", sorting, searched, "s", f">= {FASTER}", inverse=True)
    assert faster >= FASTER
