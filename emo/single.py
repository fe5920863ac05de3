"""One training with choices that are given, kept in a run's folder as a sweep of one trial is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.train import UserCallback
from ray.util.queue import Queue
from safetensors.torch import save

from emo import storage
from emo.config import HeadConfig, UserError
from emo.console import figure, say
from emo.run import Run
from emo.train import TrainingData, fit
from emo.train_loop import TrainingJob
from emo.trainer import fit_and_keep
from emo.trial import trial_metrics, weights_uri
from emo.trials import PARAMETERS, REPORTED, trial_row, write_trials

TRIAL = "only"


def train(run: Run, encoder: str, head: HeadConfig, data: TrainingData, job: TrainingJob | None) -> None:
    """Train one model, on cached features or, with a job, on streamed posts; a run that has done so is left alone.

    A UserError tells of a loss that is not finite.
    """
    if storage.exists(run.path("trials.parquet")):
        return
    try:
        metrics = _on_workers(run, encoder, job) if job else _here(run, head, data)
    except FloatingPointError as error:
        raise UserError(f"{error} Choose a lower --lr or --encoder-lr.") from error
    reported = {name: metrics[name] for name in REPORTED if name in metrics}
    choices = {name: getattr(head, name) for name in PARAMETERS}
    row = trial_row(trial_id=TRIAL, encoder=encoder, phase="search", status="done", **choices, **reported)
    write_trials(run.folder, [row])


def _here(run: Run, head: HeadConfig, data: TrainingData) -> dict[str, Any]:
    result = fit(data, head, on_epoch=show_epoch)
    storage.write_bytes(weights_uri(run.folder, TRIAL), save(result.model.state_dict()))
    return trial_metrics(result, data)


def _on_workers(run: Run, encoder: str, job: TrainingJob) -> dict[str, Any]:
    with _shown() as queue:
        return fit_and_keep(job, run.folder, encoder, TRIAL, [TellEpochs(queue)])


def show_epoch(epoch: dict[str, Any]) -> None:
    """A line an epoch."""
    losses = f"loss {epoch['train_loss']:.4f} on train, {epoch['val_loss']:.4f} on val"
    rate = f"; {epoch['posts_per_second']:.0f} posts a second" if "posts_per_second" in epoch else ""
    say(f"epoch {epoch['epoch']}: {losses}; val macro F1 {figure(epoch['val_macro_f1'])}{rate}")


class TellEpochs(UserCallback):
    """Hands on what workers report: this runs beside Ray Train's controller, whose output nobody sees."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if not metrics[0]["error"]:
            self.queue.put(metrics[0]["last"])


@contextmanager
def _shown() -> Iterator[Queue]:
    """A queue whose epochs are shown as they come."""
    queue = Queue(actor_options={"num_cpus": 0})

    def show() -> None:
        while (epoch := queue.get()) is not None:
            show_epoch(epoch)

    shower = threading.Thread(target=show, daemon=True)
    shower.start()
    try:
        yield queue
    finally:
        queue.put(None)
        shower.join(timeout=10)
        queue.shutdown()
