"""Which posts, and how raw ones become clean ones."""

from dataclasses import dataclass, field
from typing import Literal

from emo.config.base import UserError, check

Targets = Literal["threshold", "majority", "any", "soft", "draw"]


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
    """Deal the labelled posts into so many stratified folds: a sweep cross-validates over all of them, and with --fold
    tests on one."""
    fold_repeats: int = 1
    """Deal the folds anew so many times, each with a seed of its own."""

    def __post_init__(self) -> None:
        check("--label-threshold", self.label_threshold, 0 < self.label_threshold <= 1, "above 0 and at most 1")
        for pair in self.label_map:
            check("--label-map", repr(pair), pair.count("=") == 1 and pair[0] != "=", "as in happiness=joy")
        check("--image-size", self.image_size, 8 <= self.image_size <= 4096, "between 8 and 4096")
        check("--max-image-pixels", self.max_image_pixels, self.max_image_pixels > 0, "above 0")
        check("--max-characters", self.max_characters, self.max_characters > 0, "above 0")
        check("--val-share", self.val_share, 0 < self.val_share < 1, "between 0 and 1")
        check("--test-share", self.test_share, 0 < self.test_share < 1, "between 0 and 1")
        wanted = "0, or between 3 (to train, choose and test) and 100"
        check("--folds", self.folds, self.folds == 0 or 3 <= self.folds <= 100, wanted)
        check("--fold-repeats", self.fold_repeats, 1 <= self.fold_repeats <= 100, "between 1 and 100")
        if self.fold_repeats > 1 and not self.folds:
            raise UserError("--fold-repeats deals the --folds again, and there are none; give --folds, too.")
        if self.val_share + self.test_share >= 1:
            raise UserError("--val-share and --test-share add up to 1 or more, which leaves nothing to train on.")
