"""The encoders that have a name, and what is known of each."""

from dataclasses import dataclass, field

from emo.config import MODALITIES

FAMILIES: dict[str, tuple[str, ...]] = {
    "clip": ("text", "image"),
    "siglip": ("text", "image"),
    "siglip2": ("text", "image"),
    "jina-clip": ("text", "image"),
    "blip2": ("text", "image"),
    "bert": ("text",),
    "vit": ("image",),
    "lstm": ("text",),
    "textcnn": ("text",),
    "tfidf": ("text",),
    "cnn": ("image",),
    "tags": ("tags",),
}
"""Model family -> the modalities that it has a branch for."""

SCRATCH = ("lstm", "textcnn", "tfidf", "cnn", "tags")
"""Families without pretrained weights: a vocabulary of the train posts is all that is there before training."""

UNTRAINED = tuple(family for family in SCRATCH if family != "tfidf")
"""Families whose features mean nothing before they are trained."""

ONE_LAYER = (*SCRATCH, "jina-clip")
"""Families of which no layers are to be had but the last."""

NO_LORA = ONE_LAYER
"""Families into which no low-rank adapters are put: Jina CLIP's layers are only known to its own code."""

REMOTE_CODE = ("jina-clip",)
"""Families whose code comes with their checkpoints."""


@dataclass(frozen=True)
class Preset:
    """A family and a checkpoint, and what is published of it; None is unknown, or depends on the corpus."""

    family: str
    checkpoint: str
    """A hub id, or the preset's own name where it is built from the corpus."""
    num_parameters: float | None = None
    """Of the whole checkpoint, in millions."""
    widths: dict[str, int] = field(default_factory=dict)
    """Width of the features by modality, before the projection layer."""
    projected: int | None = None
    """Width of the space that the modalities share; None without a projection layer."""
    image_size: int | None = None
    """Pixels on a side."""
    max_tokens: int | None = None
    """Tokens of a text that are read, or words, or tags."""
    licence: str | None = None


PRESETS: dict[str, Preset] = {
    "clip-base": Preset("clip", "openai/clip-vit-base-patch32", 151, {"text": 512, "image": 768}, 512, 224, 77, "MIT"),
    "clip-base-16": Preset(
        "clip", "openai/clip-vit-base-patch16", 150, {"text": 512, "image": 768}, 512, 224, 77, "MIT"
    ),
    "clip-large": Preset(
        "clip", "openai/clip-vit-large-patch14", 428, {"text": 768, "image": 1024}, 768, 224, 77, "MIT"
    ),
    "siglip-base": Preset(
        "siglip", "google/siglip-base-patch16-224", 203, {"text": 768, "image": 768}, 768, 224, 64, "Apache-2.0"
    ),
    "siglip2-base": Preset(
        "siglip2", "google/siglip2-base-patch16-224", 375, {"text": 768, "image": 768}, 768, 224, 64, "Apache-2.0"
    ),
    "jina-clip": Preset(
        "jina-clip", "jinaai/jina-clip-v1", 223, {"text": 768, "image": 768}, None, 224, 8192, "Apache-2.0"
    ),
    "blip2": Preset("blip2", "Salesforce/blip2-itm-vit-g", 1172, {"text": 768, "image": 768}, 256, 224, 512, "MIT"),
    "bert-base": Preset("bert", "google-bert/bert-base-uncased", 109, {"text": 768}, None, None, 512, "Apache-2.0"),
    "vit-base": Preset("vit", "google/vit-base-patch16-224-in21k", 86, {"image": 768}, None, 224, None, "Apache-2.0"),
    "tiny-clip": Preset("clip", "tiny-clip", None, {"text": 96, "image": 96}, 96, 64, 32),
    "tiny-siglip": Preset("siglip", "tiny-siglip", None, {"text": 96, "image": 96}, 96, 64, 32),
    "tiny-bert": Preset("bert", "tiny-bert", None, {"text": 96}, None, None, 32),
    "lstm": Preset("lstm", "lstm", None, {"text": 512}, None, None, 150),
    "textcnn": Preset("textcnn", "textcnn", None, {"text": 300}, None, None, 150),
    "tfidf": Preset("tfidf", "tfidf"),
    "cnn": Preset("cnn", "cnn", 0.4, {"image": 512}, None, 96),
    "tags": Preset("tags", "tags", None, {"tags": 300}, None, None, 10),
}

BASE = {
    "clip": "clip-base",
    "siglip": "siglip-base",
    "siglip2": "siglip2-base",
    "bert": "bert-base",
    "vit": "vit-base",
}
"""A family's bare name stands for its base preset."""

_HEADER = ("encoder", "reads", "parameters", "feature width", "image size", "token limit", "licence", "checkpoint")


def presets_table() -> str:
    """All presets as a Markdown table, for the README."""
    lines = [_HEADER, ("---",) * len(_HEADER), *(_row(name, preset) for name, preset in PRESETS.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(name: str, preset: Preset) -> tuple[str, ...]:
    reads = [modality for modality in MODALITIES if modality in FAMILIES[preset.family]]
    widths = list(dict.fromkeys(str(preset.widths[modality]) for modality in reads if modality in preset.widths))
    return (
        f"`{name}`",
        ", ".join(reads),
        f"{preset.num_parameters:g} M" if preset.num_parameters else "",
        " / ".join(widths),
        f"{preset.image_size} px" if preset.image_size else "",
        f"{preset.max_tokens:,}" if preset.max_tokens else "",
        preset.licence or "",
        "built from the corpus" if preset.checkpoint == name else f"`{preset.checkpoint}`",
    )
