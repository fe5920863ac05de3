"""What is trained: modes, losses, fusions, the search over them, and how the encoders themselves are trained."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Literal

import tyro

from emo.config.base import UserError, check

Mode = Literal["frozen", "partial", "layer-mix", "lora", "full"]
"""frozen trains the classifier on cached features, partial the encoders' projection layers with it, and layer-mix a
weighting of the frozen encoders' layers; lora trains low-rank adapters inside the encoders, and full everything."""

TRAINS_ENCODERS: tuple[Mode, ...] = ("lora", "full")
"""Modes that train inside the encoders, so that nothing can be cached: posts are streamed to Ray Train workers."""

Probabilities = Literal["raw", "temperature", "isotonic"]
"""What a model's probabilities are: as it gives them, or calibrated, by one temperature or by a curve for each label;
its labels are the same."""

Loss = Literal["bce", "weighted-bce", "focal", "asymmetric", "soft", "softmax"]
Fusion = Literal["concat", "gated", "low-rank"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """One classifier: what a trial chooses, and what it keeps fixed."""

    mode: Mode = "frozen"
    """frozen trains the classifier on cached features, partial the encoders' projection layers with it, layer-mix a
    weighting of their layers; lora trains adapters inside the encoders, and full everything, on streamed posts."""
    batch_size: int = 16
    """Posts of one step, over all workers together."""
    lr: float = 1e-3
    """Of what starts at random: the classifier, adapters, encoders without pretrained weights."""
    encoder_lr: float = 2e-5
    """Of pretrained weights in --mode full."""
    dropout: float = 0.1
    num_layers: int = 2
    hidden: int = 256
    warmup_steps: int = 50
    weight_decay: float = 0.01
    loss: Loss = "bce"
    """bce; weighted-bce (rare labels count more); focal and asymmetric (easy posts count less); soft (the shares of
    annotators are aimed at); softmax (cross-entropy, for corpora with one label a post)."""
    fusion: Fusion = "concat"
    """How the features of several modalities become one vector."""
    max_epochs: int = 20
    patience: int = 4
    """Training stops after this many epochs without a lower val loss."""
    seed: tyro.conf.Suppress[int] = 0
    """That of the job."""

    @property
    def single_label(self) -> bool:
        """Whether the model reads exactly one label in each post."""
        return self.loss == "softmax"

    def __post_init__(self) -> None:
        check("--batch-size", self.batch_size, self.batch_size >= 1, "at least 1")
        check("--lr", self.lr, self.lr > 0, "above 0")
        check("--encoder-lr", self.encoder_lr, self.encoder_lr > 0, "above 0")
        check("--dropout", self.dropout, 0 <= self.dropout < 1, "at least 0 and below 1")
        check("--num-layers", self.num_layers, self.num_layers >= 1, "at least 1")
        check("--hidden", self.hidden, self.hidden >= 1, "at least 1")
        check("--warmup-steps", self.warmup_steps, self.warmup_steps >= 0, "at least 0")
        check("--weight-decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        check("--max-epochs", self.max_epochs, self.max_epochs >= 1, "at least 1")
        check("--patience", self.patience, self.patience >= 1, "at least 1")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021)."""

    rank: int = 8
    alpha: int = 16
    """Adapters count alpha / rank times."""
    dropout: float = 0.05

    def __post_init__(self) -> None:
        check("--lora.rank", self.rank, self.rank >= 1, "at least 1")
        check("--lora.alpha", self.alpha, self.alpha > 0, "above 0")
        check("--lora.dropout", self.dropout, 0 <= self.dropout < 1, "at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How --mode lora and full train: on which workers, and what each does with its share of a batch."""

    num_workers: tuple[int, ...] = (1,)
    """Ray Train workers of one training, each with a GPU where the cluster has any; or the fewest and the most of them,
    between which training follows what the cluster has."""
    cpus_per_worker: int = 1
    """Cores of each worker, and its threads."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """Whether a worker has a GPU: auto is where the cluster has any as the job starts; yes waits for one to come."""
    micro_batch_size: int | None = None
    """Posts that a worker holds at once; a step adds up as many of these as its share of --batch-size needs."""
    precision: Precision = "auto"
    """auto computes in bfloat16 where the GPU has it; weights stay in float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    augment: bool = False
    """Flip and turn training images at random."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    keep_checkpoints: int = 2
    """Checkpoints that are kept of one training: the best on val, and the last to go on from."""
    max_failures: int = 3
    """How often a training goes on from its last checkpoint after it has lost a worker."""

    def __post_init__(self) -> None:
        workers = self.num_workers
        ordered = len(workers) in (1, 2) and 1 <= workers[0] <= workers[-1]
        check("--num-workers", " ".join(map(str, workers)), ordered, "a number above 0, or the fewest and the most")
        check("--cpus-per-worker", self.cpus_per_worker, self.cpus_per_worker >= 1, "at least 1")
        if self.micro_batch_size is not None:
            check("--micro-batch-size", self.micro_batch_size, self.micro_batch_size >= 1, "at least 1")
        check("--keep-checkpoints", self.keep_checkpoints, self.keep_checkpoints >= 1, "at least 1")
        check("--max-failures", self.max_failures, self.max_failures >= 0, "at least 0")


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Where Optuna looks (Passaro et al., section 3)."""

    batch_size: tuple[int, ...] = (8, 16, 32)
    lr: tuple[float, float] = (1e-5, 1e-2)
    """Lowest and highest learning rate, searched on a log scale."""
    encoder_lr: tuple[float, float] = (1e-6, 1e-4)
    """The same for pretrained weights, in --mode full."""
    dropout: tuple[float, float] = (0.0, 0.5)
    num_layers: tuple[int, ...] = (1, 2, 3)
    hidden: tuple[int, ...] = (128, 256, 512)
    warmup_steps: tuple[int, int] = (0, 200)
    loss: tuple[Loss, ...] = ("bce",)
    fusion: tuple[Fusion, ...] = ("concat",)
    """Searched where an encoder reads several modalities."""

    def __post_init__(self) -> None:
        for name in ("lr", "encoder_lr", "dropout", "warmup_steps"):
            low, high = getattr(self, name)
            check(f"--space.{name.replace('_', '-')}", (low, high), 0 <= low <= high, "a lowest and a highest value")
        for name in ("lr", "encoder_lr"):
            bounds = getattr(self, name)
            wanted = "above 0, since it is searched on a log scale"
            check(f"--space.{name.replace('_', '-')}", bounds, bounds[0] > 0, wanted)
        check("--space.dropout", self.dropout, self.dropout[1] < 1, "below 1")
        for name in ("batch_size", "num_layers", "hidden"):
            values = getattr(self, name)
            wanted = "one or more numbers above 0"
            check(f"--space.{name.replace('_', '-')}", values, bool(values) and min(values) > 0, wanted)
        for name in ("loss", "fusion"):
            values = getattr(self, name)
            check(f"--space.{name}", values, len(set(values)) == len(values) > 0, "one or more, each once")
        if "softmax" in self.loss and len(self.loss) > 1:
            raise UserError("--space.loss softmax makes one label a post, which other losses do not; give it alone.")


Preset = Literal["demo", "paper"]
Logger = Literal["tensorboard", "mlflow", "wandb"]


Turns = Literal["fair", "halving"]
Pruning = Literal["auto", "asha", "median", "none"]


@dataclass(frozen=True)
class Round:
    """A part of a sweep."""

    num_encoders: int
    """So many encoders are tried, those that were best up to here."""
    trials: int
    """Until each of them has had so many trials in all."""
    phase: Literal["search", "refine"] = "search"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a sweep tries."""

    encoders: tuple[str, ...]
    trials: int
    refine_trials: int
    refine_top: int
    calibration_trials: int
    max_epochs: int
    turns: Turns = "fair"

    def rounds(self, num_encoders: int) -> list[Round]:
        """The rounds that the turns make, and the refinement as the last one.

        ``halving`` spends no more than ``trials`` for each encoder on average: ceil(log2(n)) rounds share them equally,
        and the better half goes on (sequential halving: Karnin et al., 2013).
        """
        rounds = [Round(num_encoders, self.trials)]
        if self.turns == "halving" and num_encoders > 1:
            num_rounds = math.ceil(math.log2(num_encoders))
            survivors = [math.ceil(num_encoders / 2**number) for number in range(num_rounds)]
            each = (self.trials * num_encoders // (count * num_rounds) for count in survivors)
            rounds = [Round(*pair) for pair in zip(survivors, itertools.accumulate(each), strict=True)]
        if self.refine_trials and self.refine_top:
            num_refined, so_far = min(self.refine_top, rounds[-1].num_encoders), rounds[-1].trials
            rounds.append(Round(num_refined, so_far + self.refine_trials, "refine"))
        return rounds

    def total_trials(self, num_encoders: int) -> int:
        """Every trial that a sweep over so many encoders owes."""
        rounds = self.rounds(num_encoders)
        before = [0, *(each.trials for each in rounds)]
        return sum(each.num_encoders * (each.trials - so_far) for each, so_far in zip(rounds, before, strict=False))


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
            "blip2",
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
