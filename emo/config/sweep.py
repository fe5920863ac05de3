"""What the jobs that train are told: a sweep, one training, and thresholds anew."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from emo.config.base import UserError, check
from emo.config.cost import CostConfig
from emo.config.jobs import EncodersConfig, JobConfig, ReadingConfig
from emo.config.training import (
    PRESETS,
    TRAINS_ENCODERS,
    Budget,
    HeadConfig,
    Logger,
    Mode,
    Probabilities,
    Pruning,
    SearchSpace,
    TrainingConfig,
    Turns,
)


@dataclass(frozen=True, kw_only=True)
class SweepConfig(EncodersConfig):
    """The main job: from posts to a leaderboard, a report and a model."""

    mode: Mode = "frozen"
    """frozen trains the classifier on cached features, partial the encoders' projection layers with it, layer-mix a
    weighting of their layers; lora trains adapters inside the encoders, and full everything, on streamed posts."""
    trials: int | None = None
    """Optuna trials for each encoder."""
    turns: Turns | None = None
    """fair gives every encoder --trials; halving gives the same number in all, but after each of log2(encoders) rounds
    only to the better half, by the mean of their best --top trials on val."""
    refine_trials: int | None = None
    """Further trials for each of the best encoders, which go on in the same study."""
    refine_top: int | None = None
    """How many encoders are refined."""
    calibration_trials: int | None = None
    """Optuna trials for the decision thresholds of each kept model."""
    probabilities: Probabilities = "raw"
    """What probabilities the model writes: raw, or calibrated on held-out posts, by one temperature or by an isotonic
    curve for each label; which labels it gives does not change."""
    max_epochs: int | None = None
    patience: int = 4
    """A training stops after this many epochs without a lower val loss."""
    weight_decay: float = 0.01
    top: int = 10
    """A leaderboard row is the mean over this many of the encoder's best trials by val."""
    pruning: Pruning = "auto"
    """How weak trials are stopped early, each by those of its own encoder: asha (successive halving over epochs),
    median (below the median of finished trials at the same epoch) or none. auto is asha where encoders are trained,
    and none on cached features, where a trial takes seconds."""
    log_to: tuple[Logger, ...] = ()
    """Show every trial there too: in <output>/tensorboard, at MLFLOW_TRACKING_URI or else in <output>/mlflow.db, or at
    Weights & Biases."""
    space: SearchSpace = field(default_factory=SearchSpace)
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    trials_per_gpu: int | None = None
    """Let so many trials on cached features share each GPU; without it, each takes a core."""
    trials_at_once: int | None = None
    """How many trials run at once; without it, as many as the cluster has room for, however far it grows."""
    optuna_storage: str | None = None
    """A database of Optuna's for the studies, as in postgresql://host/name, which several sweeps and optuna-dashboard
    can share; without it, optuna.log in the run folder. Leave the password to PGPASSWORD or ~/.pgpass."""
    cost: Annotated[CostConfig, tyro.conf.arg(name="")] = field(default_factory=CostConfig)
    resume: bool = False
    """Go on with the run in --output."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials_per_gpu is not None:
            check("--trials-per-gpu", self.trials_per_gpu, self.trials_per_gpu >= 1, "at least 1")
            if self.mode in TRAINS_ENCODERS:
                raise UserError(f"--trials-per-gpu is for cached features; with --mode {self.mode} a worker has a GPU.")
        for name in (
            "trials",
            "trials_at_once",
            "refine_trials",
            "refine_top",
            "calibration_trials",
            "max_epochs",
            "patience",
            "top",
        ):
            value, lowest = getattr(self, name), 0 if name.startswith("refine") else 1
            if value is not None:
                check(f"--{name.replace('_', '-')}", value, value >= lowest, f"at least {lowest}")
        if self.probabilities == "isotonic" and "softmax" in self.space.loss:
            raise UserError(
                "--probabilities isotonic calibrates label by label, which one label a post is not; use temperature."
            )
        if self.mode in TRAINS_ENCODERS:
            fewest, workers = min(self.space.batch_size), self.training.num_workers[-1]
            wanted = f"at least --num-workers, {workers}, so that each has a post of every step"
            check("--space.batch-size", fewest, fewest >= workers, wanted)
        check_resume(self.resume, self.output)

    @property
    def budget(self) -> Budget:
        """What the preset says, where a flag does not."""
        preset = PRESETS[self.preset]
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(Budget)}
        return dataclasses.replace(preset, **{name: value for name, value in named.items() if value is not None})

    def resolved(self) -> "SweepConfig":
        """The same sweep with every choice that was left open taken from its preset, as it is written down."""
        storage = self.optuna_storage and without_password(self.optuna_storage)
        return dataclasses.replace(self, **dataclasses.asdict(self.budget), optuna_storage=storage)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ReadingConfig):
    """One training with the choices that are given: no search."""

    encoder: str = "tiny-clip"
    """Which encoder, named as in --encoders of a sweep."""
    head: Annotated[HeadConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: HeadConfig(mode="full"))
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    cost: Annotated[CostConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: CostConfig(estimate="no"))
    calibration_trials: int = 500
    """Optuna trials for the decision thresholds."""
    probabilities: Probabilities = "raw"
    """What probabilities the model writes: raw, or calibrated on held-out posts, by one temperature or by an isotonic
    curve for each label; which labels it gives does not change."""
    resume: bool = False
    """Go on with the run in --output."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("--calibration-trials", self.calibration_trials, self.calibration_trials >= 1, "at least 1")
        if self.prepare.folds and self.fold is None:
            raise UserError("--folds deals several test sets, and one training has one: name it with --fold.")
        check_resume(self.resume, self.output)

    def as_sweep(self) -> SweepConfig:
        """The same as a sweep of one trial, which is how its folder is kept."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(ReadingConfig)}
        head = self.head
        space = SearchSpace(
            batch_size=(head.batch_size,),
            lr=(head.lr, head.lr),
            encoder_lr=(head.encoder_lr, head.encoder_lr),
            dropout=(head.dropout, head.dropout),
            num_layers=(head.num_layers,),
            hidden=(head.hidden,),
            warmup_steps=(head.warmup_steps, head.warmup_steps),
            loss=(head.loss,),
            fusion=(head.fusion,),
        )
        return SweepConfig(
            **shared,
            encoders=(self.encoder,),
            mode=head.mode,
            trials=1,
            refine_trials=0,
            calibration_trials=self.calibration_trials,
            probabilities=self.probabilities,
            max_epochs=head.max_epochs,
            patience=head.patience,
            weight_decay=head.weight_decay,
            top=1,
            space=space,
            training=self.training,
            cost=self.cost,
            resume=self.resume,
        )


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(JobConfig):
    """Which run's models are calibrated again."""

    run: str
    """The folder of a run with trials, whether finished, going on or killed; nothing is written there."""
    calibration_trials: int = 500
    """Optuna trials for the decision thresholds of each kept model."""
    probabilities: Probabilities = "raw"
    """What probabilities the model writes: raw, or calibrated on held-out posts, by one temperature or by an isotonic
    curve for each label; which labels it gives does not change."""

    def __post_init__(self) -> None:
        check("--calibration-trials", self.calibration_trials, self.calibration_trials >= 1, "at least 1")


def check_resume(resume: bool, output: str | None) -> None:
    """Raise the one sentence about --resume without a folder."""
    if resume and output is None:
        raise UserError("--resume needs --output, the folder of the run to go on with.")


def without_password(url: str) -> str:
    """The address of a database as it may be shown; a UserError where it is none."""
    from sqlalchemy.engine import make_url  # no worker needs it, and each imports this module
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        raise UserError("--optuna-storage is no address of a database, as postgresql://host/name is.") from None
