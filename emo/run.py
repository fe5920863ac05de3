"""A run's folder: made once, never overwritten, gone on with only on request."""

import datetime
import importlib.metadata
import os
import uuid
from dataclasses import asdict, replace
from typing import Any

from emo import storage
from emo.config import MODALITIES, SweepConfig, UserError, from_dict, to_dict
from emo.encoders import Branch, EncoderSpec
from emo.features import Features
from emo.room import num_cpus
from emo.work import is_unfinished

VERSIONED = ("emo", "ray", "torch", "transformers", "optuna", "scikit-learn", "pyarrow", "pillow", "numpy")


FINISHED = "finished"
"""The last event of a run that has nothing left to do."""


class Run:
    """The folder of one sweep, and what happened in it. Nothing is written before the plan stands, so that a mistake
    found until then leaves the folder free."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.events: list[str] = []
        if storage.exists(self.path("events.log")):
            self.events = storage.read_bytes(self.path("events.log")).decode().splitlines()

    def log(self, event: str) -> None:
        """Add a line to ``events.log``."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.events.append(f"{now} {event}")
        storage.write_bytes(self.path("events.log"), "\n".join([*self.events, ""]).encode())

    def path(self, *parts: str) -> str:
        return storage.join(self.folder, *parts)

    @property
    def name(self) -> str:
        """What tells it from all other runs."""
        return storage.read_json(self.path("config.json"))["name"]

    def is_finished(self) -> bool:
        return any(event.endswith(f" {FINISHED}") for event in self.events)


SUBMITTED = "/runtime_resources/working_dir_files/"
"""In the path of the folder that Ray runs a submitted job in, and removes some time after its end."""


def output_folder(output: str | None, name: str) -> str:
    """The folder that a job writes into: the one that was named, or a new dated one below EMO_RUNS, or else runs/, of a
    submitted job in the home folder. A UserError where it would be removed with the job."""
    is_submitted = SUBMITTED in os.getcwd()
    if output is None:
        runs = os.environ.get("EMO_RUNS") or ("~/runs" if is_submitted else "runs")
        output = storage.join(runs, f"{name}-{datetime.datetime.now().strftime('%Y-%m-%d-%H%M%S')}")
    folder = storage.absolute(output)
    if is_submitted and folder.startswith(os.getcwd()):
        raise UserError(f"--output {output} lies in the job's own folder, which Ray removes; name a full path or URI.")
    return folder


def claim(folder: str, hint: str = "") -> None:
    """Make a new output folder, or find one that a killed job left unfinished; a UserError, with a hint, where anything
    else is there already, or it cannot be written."""
    try:
        if not storage.is_empty(folder) and not is_unfinished(folder):
            raise UserError(
                f"--output {folder} already holds files, which are never overwritten; name another folder{hint}."
            )
        storage.make_folder(folder)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written: {error.strerror or error}.") from error


def open_run(config: SweepConfig, name: str = "sweep") -> tuple[Run, SweepConfig]:
    """The run that a sweep writes into, new or gone on with, and the choices that hold for it."""
    folder = output_folder(config.output, name)
    if not config.resume:
        claim(folder, hint=", or go on with the run there by --resume")
        return Run(folder), replace(config, output=folder)
    if not storage.exists(storage.join(folder, "config.json")):
        raise UserError(f"--resume: {folder} holds no run to go on with (it has no config.json).")
    stored = from_dict(SweepConfig, storage.read_json(storage.join(folder, "config.json"))["config"])
    if difference := _difference(config.resolved(), stored):
        raise UserError(
            f"--resume goes on with the choices of {folder}, but {difference}; repeat the same command, or start a run "
            "of its own without --resume."
        )
    return Run(folder), replace(config, output=folder)


def _difference(config: SweepConfig, stored: SweepConfig) -> str | None:
    """The first choice that is not what it was; what is said, and where and how many at once, does not count."""
    free = {"output", "resume", "verbose", "refresh", "cache", "log_to", "trials_at_once", "trials_per_gpu"}
    free |= {"prices", "nodes", "estimate"}
    now, then = _by_flag(to_dict(config)), _by_flag(to_dict(stored))
    for name in now:
        if name not in free and now[name] != then[name]:
            return f"--{name.replace('_', '-')} was {_shown(then[name])} there and is {_shown(now[name])} here"
    return None


def _shown(value: Any) -> str:
    """A choice as it is written on the command line; bounds that are one value, as that."""
    if value is None or value == []:
        return "not given"
    return " ".join(dict.fromkeys(map(str, value))) if isinstance(value, list) else str(value)


def _by_flag(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Choices by the flag that makes each: those of prepare are flags of their own, those of space have its name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _by_flag(value, prefix if name in ("prepare", "training", "cost") else f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def give_up_folder(run: Run) -> None:
    """Remove the folder of a run that was only planned, where it is new."""
    if storage.is_empty(run.folder):
        storage.remove(run.folder)


def existing_run(folder: str) -> str:
    """The folder of a run, finished or not; a UserError where there is none."""
    if not storage.exists(storage.join(folder, "config.json")):
        raise UserError(f"--run {folder} holds no run (it has no config.json).")
    return storage.absolute(folder)


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in VERSIONED}


def write_config(run: Run, config: SweepConfig, encoders: list[dict[str, Any]], plan: dict[str, Any]) -> None:
    """``config.json``: every choice, the resolved encoders, and the versions they ran with."""
    uri = run.path("config.json")
    before = storage.read_json(uri) if storage.exists(uri) else {}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    content = {
        "name": before.get("name", f"{os.path.basename(run.folder)}-{uuid.uuid4().hex[:6]}"),
        "config": to_dict(config.resolved()),
        "encoders": encoders,
        "versions": versions(),
        "started": before.get("started", now),
        "plan": plan,
    }
    storage.write_json(uri, content)


def describe_encoder(spec: EncoderSpec, widths: dict[Branch, int]) -> dict[str, Any]:
    """An encoder as ``config.json`` names it: each branch with its revision and feature width."""
    by_modality: dict[str, Any] = dict.fromkeys(MODALITIES)
    for branch in spec.branches:
        by_modality[branch.modality] = asdict(branch) | {"width": widths.get(branch)}
    return {"name": spec.name, **by_modality}


def keep_plan(
    run: Run, config: SweepConfig, manifest: dict[str, Any], specs: list[EncoderSpec], features: dict[Branch, Features]
) -> None:
    """Write down what is about to be tried, and on which posts."""
    widths = {branch: found.width for branch, found in features.items()}
    encoders = [describe_encoder(spec, widths) for spec in specs]
    storage.write_json(run.path("posts.json"), manifest)
    write_config(run, config, encoders, {"num_workers": num_cpus()})
    run.log("resumed" if run.events else "started")


def stored_encoders(run: Run) -> list[EncoderSpec]:
    """The encoders that a former process resolved, at the same revisions; none in a new run."""
    uri = run.path("config.json")
    found = storage.read_json(uri)["encoders"] if storage.exists(uri) else []
    return [EncoderSpec(name=e["name"], branches=tuple(_branch(e[m]) for m in MODALITIES if e[m])) for e in found]


def _branch(values: dict[str, Any]) -> Branch:
    return Branch(**{name: value for name, value in values.items() if name != "width"})
