"""What each job is told: frozen dataclasses that are command line, JSON file and documentation at once."""

import os
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from emo.config.base import UserError, check
from emo.config.posts import Columns, FetchLimits, PrepareConfig
from emo.config.training import (
    Preset,
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
