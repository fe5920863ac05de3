"""A run folder for calibrating the models of another run again, whatever state that one is in."""

from dataclasses import replace

from emo import storage
from emo.config import CalibrateConfig, SweepConfig, UserError, from_dict, to_dict
from emo.console import say
from emo.run import Run, claim, existing_run, output_folder
from emo.trial import weights_uri
from emo.trials import ranked, read_trials


def copy_run(config: CalibrateConfig) -> tuple[Run, SweepConfig]:
    """A new run with the trials of another, and that one's choices but for the calibration.

    Of each encoder it has the weights of the best trials that have any left. A sweep that goes on meanwhile deletes
    some of those that its ``trials.parquet`` still has among the best: these are passed over, and counted.
    """
    source = existing_run(config.run)
    if not storage.exists(storage.join(source, "trials.parquet")):
        raise UserError(f"--run {config.run} has no trials yet.")
    content = storage.read_json(storage.join(source, "config.json"))
    swept = from_dict(SweepConfig, content["config"])
    folder = output_folder(config.output, "calibrate")
    changes = {"calibration_trials": config.calibration_trials, "probabilities": config.probabilities}
    swept = replace(swept, output=folder, **changes)  # type: ignore[arg-type]
    claim(folder)
    for name in ("posts.json", "trials.parquet"):
        storage.write_bytes(storage.join(folder, name), storage.read_bytes(storage.join(source, name)))
    _copy_weights(source, folder, swept.top)
    storage.write_json(storage.join(folder, "config.json"), content | {"config": to_dict(swept)})
    run = Run(folder)
    run.log(f"calibrating the trials of {source}")
    return run, swept


def _copy_weights(source: str, folder: str, top: int) -> None:
    """The weights of each encoder's best trials in ``folder``, so many of them as there are up to ``top``."""
    trials, num_without = read_trials(folder), 0
    for encoder in dict.fromkeys(row["encoder"] for row in trials):
        num_copied = 0
        for trial in ranked(trials, encoder):
            if num_copied == top:
                break
            try:
                weights = storage.read_bytes(weights_uri(source, trial["trial_id"]))
            except FileNotFoundError:
                num_without += 1
                continue
            storage.write_bytes(weights_uri(folder, trial["trial_id"]), weights)
            num_copied += 1
    if num_without:
        say(f"weights: {num_without} finished trials have none (any more) and are passed over")
