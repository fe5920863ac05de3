"""What each job is told: frozen dataclasses that are command line, JSON file and documentation at once."""

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from emo.config.base import UserError, check
from emo.config.cost import CostConfig
from emo.config.posts import Columns, FetchLimits, PrepareConfig
from emo.config.training import (
    PRESETS,
    TRAINS_ENCODERS,
    Budget,
    HeadConfig,
    Logger,
    Mode,
    Preset,
    Probabilities,
    Pruning,
    SearchSpace,
    TrainingConfig,
    Turns,
)


def default_cache() -> str:
    """The cache that the cluster's nodes name, or one below the home folder."""
    return os.environ.get("EMO_CACHE", "~/.cache/emo")


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """What every job is told."""

    output: str | None = None
    """Where the results go; without it, a new dated folder under EMO_RUNS, or else runs/."""
    seed: int = 0
    verbose: bool = False
    """Show Ray's and transformers' own messages too."""


@dataclass(frozen=True, kw_only=True)
class PostsConfig(JobConfig):
    """Which posts, and what is made of them."""

    data: tuple[str, ...] = ()
    """Paths or URIs: files (JSONL, CSV, TSV, Parquet, WebDataset), folders or globs of them, or folders of a known
    corpus, of which several are read as one; or one folder of prepared posts. Without it, the embedded corpus."""
    cache: str = field(default_factory=default_cache)
    """Prepared posts, features and checkpoints that later runs reuse; on a cluster, a place that every node reaches.
    The default is EMO_CACHE, where that is set."""
    prepare: Annotated[PrepareConfig, tyro.conf.arg(name="")] = field(default_factory=PrepareConfig)


@dataclass(frozen=True, kw_only=True)
class PrepareJobConfig(PostsConfig):
    """Which posts are prepared."""

    list: bool = False
    """Name the corpora whose published layouts are known, and do nothing else."""


@dataclass(frozen=True, kw_only=True)
class CaptionChoices:
    """Captions of the posts' images, which text branches read after text and tags."""

    captioner: str | None = None
    """A hub id or a local folder of the family BLIP-2, BLIP, GIT or vision-encoder-decoder."""
    revision: str | None = None
    """The captioner's revision on the hub; without it, the newest, which is written down."""
    max_tokens: int = 30
    """A caption is at most so long."""
    prompt: str | None = None
    """Words that the captioner goes on from, as in 'a photo of'; captions leave them out."""

    def __post_init__(self) -> None:
        check("--max-tokens", self.max_tokens, 1 <= self.max_tokens <= 200, "between 1 and 200")


@dataclass(frozen=True, kw_only=True)
class ReadingConfig(PostsConfig):
    """What encoders read of the posts, and how checkpoints are had."""

    tags: Literal["append", "ignore"] = "append"
    """append lets text branches read a post's tags after its text; an encoder with a branch for tags never does."""
    caption: CaptionChoices = field(default_factory=CaptionChoices)
    revision: str | None = None
    """The revision of every hub checkpoint that is named; without it, the newest, which is written down."""
    trust_remote_code: bool = False
    """Run the Python code that comes with a checkpoint (Jina CLIP's), with your rights; needs --revision."""
    code_revision: str | None = None
    """The revision of that code, where it lies in a repository of its own; without it, --revision."""
    fold: int | None = None
    """Test on this one of the --folds, choose on the next one, and train on the others; those of a second deal
    (--fold-repeats) are counted on from those of the first."""
    refresh: bool = False
    """Prepare and embed again even where the cache has the result, as after images changed in place."""

    def __post_init__(self) -> None:
        if self.trust_remote_code and self.revision is None:
            raise UserError(
                "--trust-remote-code runs code that its owner can change at any time: name the one that you have "
                "read with --revision (a commit)."
            )


@dataclass(frozen=True, kw_only=True)
class EncodersConfig(ReadingConfig):
    """Which encoders."""

    preset: Preset = "demo"
    """The default encoders and budgets: demo for a laptop, paper for the published study."""
    encoders: tuple[str, ...] | None = None
    """Presets (clip-base), one branch of them (clip-base:text), the text branch of one with the image branch of
    another (bert-base+vit-base), with tags too (clip-base+tags), or family:path-or-hub-id."""


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(EncodersConfig):
    """Which features are computed."""

    layers: bool = False
    """Keep the output of every layer of an encoder, not of the last alone, as --mode layer-mix reads it."""


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
class PredictConfig(JobConfig):
    """Which model reads which posts."""

    model: str
    """The model/ folder of a finished run."""
    trust_remote_code: bool = False
    """Run the Python code that came with the model's encoder, with your rights."""
    data: tuple[str, ...] = ()
    """Paths or URIs: files (JSONL, CSV, TSV, Parquet, WebDataset), folders or globs of them, or folders of a known
    corpus. Without it, the embedded corpus."""
    corpus: str = "auto"
    """The published layout of --data, as for jobs/prepare.py."""
    columns: Columns = field(default_factory=Columns)
    label_map: tuple[str, ...] = ()
    """Labels to read as others, as in happiness=joy."""
    evaluate: bool = True
    """Compare the predictions with the labels that the posts carry, if they do."""
    keep_columns: tuple[str, ...] = ()
    """Columns of the data that the predictions shall have too; all means every one."""
    images: str | None = None
    """The folder that relative image paths count from; without it, that of the data file."""
    fetch_images: bool = False
    """Fetch the images that posts name by URI: https://, s3://, gs:// or hf://."""
    fetch: FetchLimits = field(default_factory=FetchLimits)
    bad_images: Literal["reject", "drop"] = "reject"
    """reject sets the whole post aside where its image cannot be read; drop reads its text and tags alone."""
    cache: str = field(default_factory=default_cache)
    """Prepared posts and checkpoints that later runs reuse; on a cluster, a place that every node reaches."""


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


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which run is reported on."""

    run: str
    """The folder of a run, finished or not."""
    verbose: bool = False


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(PostsConfig):
    """Which posts' images are described, and by what."""

    caption: Annotated[CaptionChoices, tyro.conf.arg(name="")] = field(
        default_factory=lambda: CaptionChoices(captioner="Salesforce/blip2-opt-2.7b")
    )
    refresh: bool = False
    """Caption again even where the cache has the result."""


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
