"""What a run is told: frozen dataclasses that are command line, JSON file and documentation at once."""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import tyro

MODALITIES = ("text", "image")
"""The modalities that encoders read; tags join the text."""

SPLITS = ("train", "val", "test")
ALL_SPLITS = (*SPLITS, "unlabelled")
"""The splits of labelled posts, and those with what has no labels."""

PLUTCHIK = ("anger", "anticipation", "disgust", "fear", "joy", "sadness", "surprise", "trust", "neutral")

Preset = Literal["demo", "paper"]
Mode = Literal["frozen", "partial"]
C = TypeVar("C")


class UserError(ValueError):
    """A mistake that the user can mend; its message is the one sentence that a job prints."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names that the corpus gives to its columns; those that it lacks are taken as absent."""

    id: str = "id"
    """Unique for each post."""
    text: str = "text"
    image: str = "image"
    """The image file's bytes, or its path relative to the data file."""
    tags: str = "tags"
    """A list of words, or words separated by ';'."""
    labels: str = "labels"
    """A list of label names, or names separated by ';'."""
    votes: str = "votes"
    """Label name -> number of annotators who chose it, as a mapping or as JSON text."""
    annotators: str = "annotators"
    """How many annotators voted on the post."""
    split: str = "split"
    """train, val or test; posts without labels are unlabelled."""
    group: str = "group"
    """Posts of one group (an author, a thread) never fall in two splits."""


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """How long, how much and how often images are fetched that posts name by URI."""

    timeout: float = 20.0
    """Seconds for one try, from connecting to the last byte."""
    max_bytes: int = 20 * 2**20
    retries: int = 2
    """Further tries after the first, of what may pass: no connection, a lost one, HTTP 429 and 5xx, a time-out."""
    concurrency: int = 16
    """How many requests of one worker are under way at once."""
    allow_private: bool = False
    """Fetch from this machine and its private networks, too."""

    def __post_init__(self) -> None:
        check("--fetch.timeout", self.timeout, self.timeout > 0, "above 0")
        check("--fetch.max-bytes", self.max_bytes, self.max_bytes > 0, "above 0")
        check("--fetch.retries", self.retries, self.retries >= 0, "at least 0")
        check("--fetch.concurrency", self.concurrency, self.concurrency >= 1, "at least 1")


Targets = Literal["threshold", "majority", "any", "soft", "draw"]


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How raw posts become clean ones: every choice that changes a prepared post, and nothing else."""

    corpus: str = "auto"
    """The published layout of --data (jobs/prepare.py --list names them); auto recognises it, and generic is a table
    whose columns the --columns flags name."""
    labels: str | None = None
    """plutchik; auto (the corpus's own names in alphabetical order); or names separated by commas. Without it, the
    labels of a corpus whose layout is known, and otherwise plutchik."""
    label_map: tuple[str, ...] = ()
    """Labels to read as others, as in happiness=joy; love= leaves a label out. Plain synonyms are known."""
    columns: Columns = field(default_factory=Columns)
    targets: Targets = "threshold"
    """From votes to labels: at least --label-threshold of the annotators, a majority of them, or any of them; soft
    trains on the shares themselves, and draw on labels drawn anew by them at every epoch (both are judged at
    --label-threshold)."""
    label_threshold: float = 0.5
    """A label is positive where at least this share of the annotators chose it."""
    emoji: Literal["remove", "describe", "keep"] = "describe"
    """describe writes each emoji as its Unicode name in words."""
    images: str | None = None
    """The folder that relative image paths count from; without it, that of the data file."""
    fetch_images: bool = False
    """Fetch the images that posts name by URI: https://, s3://, gs:// or hf://."""
    fetch: FetchLimits = field(default_factory=FetchLimits)
    image_size: int = 384
    """Images are cropped to their central square and, where larger, shrunk to this side in pixels."""
    max_image_pixels: int = 50_000_000
    """An image that would decode to more pixels is set aside undecoded."""
    max_characters: int = 20_000
    """A post with a longer text is set aside."""
    bad_images: Literal["reject", "drop"] = "reject"
    """reject sets the whole post aside where its image cannot be read; drop keeps its text and tags."""
    near_duplicates: Literal["together", "ignore"] = "together"
    """together keeps posts whose texts or images nearly agree in one split."""
    val_share: float = 0.15
    """Share of the labelled posts for val, where the corpus brings no val split."""
    test_share: float = 0.25
    """Share of the labelled posts for test, where the corpus brings no test split."""
    folds: int = 0
    """Deal the labelled posts into so many stratified folds; a sweep with --fold tests on one of them."""

    def __post_init__(self) -> None:
        check("--label-threshold", self.label_threshold, 0 < self.label_threshold <= 1, "above 0 and at most 1")
        for pair in self.label_map:
            check("--label-map", repr(pair), pair.count("=") == 1 and pair[0] != "=", "as in happiness=joy")
        check("--image-size", self.image_size, 8 <= self.image_size <= 4096, "between 8 and 4096")
        check("--max-image-pixels", self.max_image_pixels, self.max_image_pixels > 0, "above 0")
        check("--max-characters", self.max_characters, self.max_characters > 0, "above 0")
        check("--val-share", self.val_share, 0 < self.val_share < 1, "between 0 and 1")
        check("--test-share", self.test_share, 0 < self.test_share < 1, "between 0 and 1")
        check("--folds", self.folds, self.folds == 0 or self.folds >= 3, "0, or at least 3: to train, choose and test")
        if self.val_share + self.test_share >= 1:
            raise UserError("--val-share and --test-share add up to 1 or more, which leaves nothing to train on.")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """One classifier over cached features: what a trial chooses, and what it keeps fixed."""

    mode: Mode = "frozen"
    """frozen trains the classifier; partial trains the encoders' projection layers with it."""
    batch_size: int = 16
    lr: float = 1e-3
    dropout: float = 0.1
    num_layers: int = 2
    hidden: int = 256
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_epochs: int = 20
    patience: int = 4
    """Training stops after this many epochs without a lower val loss."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Where Optuna looks (Passaro et al., section 3)."""

    batch_size: tuple[int, ...] = (8, 16, 32)
    lr: tuple[float, float] = (1e-5, 1e-2)
    """Lowest and highest learning rate, searched on a log scale."""
    dropout: tuple[float, float] = (0.0, 0.5)
    num_layers: tuple[int, ...] = (1, 2, 3)
    hidden: tuple[int, ...] = (128, 256, 512)
    warmup_steps: tuple[int, int] = (0, 200)

    def __post_init__(self) -> None:
        for name in ("lr", "dropout", "warmup_steps"):
            low, high = getattr(self, name)
            check(f"--space.{name.replace('_', '-')}", (low, high), 0 <= low <= high, "a lowest and a highest value")
        check("--space.lr", self.lr, self.lr[0] > 0, "above 0, since it is searched on a log scale")
        check("--space.dropout", self.dropout, self.dropout[1] < 1, "below 1")
        for name in ("batch_size", "num_layers", "hidden"):
            values = getattr(self, name)
            check(
                f"--space.{name.replace('_', '-')}",
                values,
                bool(values) and min(values) > 0,
                "one or more numbers above 0",
            )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a sweep tries."""

    encoders: tuple[str, ...]
    trials: int
    refine_trials: int
    refine_top: int
    calibration_trials: int
    max_epochs: int

    def total_trials(self, num_encoders: int) -> int:
        """Every trial that a sweep over so many encoders owes."""
        return self.trials * num_encoders + self.refine_trials * min(self.refine_top, num_encoders)


PRESETS: dict[str, Budget] = {
    "demo": Budget(
        encoders=("tiny-clip", "tiny-siglip", "tiny-bert", "tiny-clip:text", "tiny-clip:image"),
        trials=16,
        refine_trials=8,
        refine_top=1,
        calibration_trials=50,
        max_epochs=20,
    ),
    "paper": Budget(
        encoders=(
            "clip-base",
            "clip-large",
            "siglip-base",
            "bert-base",
            "clip-base:text",
            "clip-base:image",
            "vit-base",
        ),
        trials=200,
        refine_trials=300,
        refine_top=1,
        calibration_trials=500,
        max_epochs=30,
    ),
}


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """What every job is told."""

    output: str | None = None
    """Where the results go; without it, a new dated folder under runs/."""
    seed: int = 0
    verbose: bool = False
    """Show Ray's and transformers' own messages too."""


@dataclass(frozen=True, kw_only=True)
class PostsConfig(JobConfig):
    """Which posts, and what is made of them."""

    data: tuple[str, ...] = ()
    """Paths or URIs: files (JSONL, CSV, TSV, Parquet, WebDataset), folders or globs of them, or folders of a known
    corpus, of which several are read as one; or one folder of prepared posts. Without it, the embedded corpus."""
    cache: str = "~/.cache/emo"
    """Prepared posts, features and checkpoints that later runs reuse; on a cluster, a place that every node reaches."""
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
class EmbedConfig(PostsConfig):
    """Which features are computed."""

    preset: Preset = "demo"
    """The default encoders and budgets: demo for a laptop, paper for the published study."""
    encoders: tuple[str, ...] | None = None
    """Presets (clip-base), one branch of them (clip-base:text), the text branch of one with the image
    branch of another (bert-base+vit-base), or family:path-or-hub-id."""
    tags: Literal["append", "ignore"] = "append"
    """append lets the encoders read a post's tags after its text."""
    caption: CaptionChoices = field(default_factory=CaptionChoices)
    revision: str | None = None
    """The revision of every hub checkpoint that is named; without it, the newest, which is written down."""
    fold: int | None = None
    """Test on this one of the --folds, choose on the next one, and train on the others."""
    refresh: bool = False
    """Prepare and embed again even where the cache has the result, as after images changed in place."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig(EmbedConfig):
    """The main job: from posts to a leaderboard, a report and a model."""

    mode: Mode = "frozen"
    """frozen trains the classifier; partial trains the encoders' projection layers with it."""
    trials: int | None = None
    """Optuna trials for each encoder."""
    refine_trials: int | None = None
    """Further trials for each of the best encoders, which go on in the same study."""
    refine_top: int | None = None
    """How many encoders are refined."""
    calibration_trials: int | None = None
    """Optuna trials for the decision thresholds of each kept model."""
    max_epochs: int | None = None
    top: int = 10
    """A leaderboard row is the mean over this many of the encoder's best trials by val."""
    space: SearchSpace = field(default_factory=SearchSpace)
    resume: bool = False
    """Go on with the run in --output."""

    def __post_init__(self) -> None:
        for name in ("trials", "refine_trials", "refine_top", "calibration_trials", "max_epochs", "top"):
            value, lowest = getattr(self, name), 0 if name.startswith("refine") else 1
            if value is not None:
                check(f"--{name.replace('_', '-')}", value, value >= lowest, f"at least {lowest}")
        if self.resume and self.output is None:
            raise UserError("--resume needs --output, the folder of the run to go on with.")

    @property
    def budget(self) -> Budget:
        """What the preset says, where a flag does not."""
        preset = PRESETS[self.preset]
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(Budget)}
        return dataclasses.replace(preset, **{name: value for name, value in named.items() if value is not None})

    def resolved(self) -> "SweepConfig":
        """The same sweep with every choice that was left open taken from its preset."""
        return dataclasses.replace(self, **dataclasses.asdict(self.budget))


@dataclass(frozen=True, kw_only=True)
class PredictConfig(JobConfig):
    """Which model reads which posts."""

    model: str
    """The model/ folder of a finished run."""
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
    cache: str = "~/.cache/emo"


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(JobConfig):
    """Which run's thresholds are chosen again."""

    run: str
    """The folder of a run whose trials are done."""
    calibration_trials: int = 500
    """Optuna trials for the decision thresholds of each kept model."""

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


def check(flag: str, value: object, holds: bool, wanted: str) -> None:
    """Raise the one sentence about a flag's value unless it ``holds``."""
    if not holds:
        raise UserError(f"{flag} is {value}; it must be {wanted}.")


def override(config: C, changes: dict[str, Any]) -> C:
    """A copy of ``config`` with dotted keys replaced; an unknown key is a TypeError."""
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        config = dataclasses.replace(
            config, **{name: override(getattr(config, name, None), {rest: value}) if rest else value}
        )  # type: ignore[type-var]
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values, as they come back from a file."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[C], values: dict[str, Any]) -> C:
    """The inverse of :func:`to_dict`; an unknown key is a TypeError."""
    hints = typing.get_type_hints(kind)
    return kind(**{name: _restored(hints.get(name), value) for name, value in values.items()})


def _restored(hint: Any, value: Any) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(h for h in typing.get_args(hint) if h is not type(None))
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value
