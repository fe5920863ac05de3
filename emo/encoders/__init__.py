"""Which encoders there are, and how one is named on the command line."""

from dataclasses import dataclass

from emo.config import MODALITIES, UserError

FAMILIES: dict[str, tuple[str, ...]] = {
    "clip": ("text", "image"),
    "siglip": ("text", "image"),
    "bert": ("text",),
    "vit": ("image",),
}
"""Model family -> the modalities that it has a branch for."""

PRESETS: dict[str, tuple[str, str]] = {
    "clip-base": ("clip", "openai/clip-vit-base-patch32"),
    "clip-base-16": ("clip", "openai/clip-vit-base-patch16"),
    "clip-large": ("clip", "openai/clip-vit-large-patch14"),
    "siglip-base": ("siglip", "google/siglip-base-patch16-224"),
    "bert-base": ("bert", "google-bert/bert-base-uncased"),
    "vit-base": ("vit", "google/vit-base-patch16-224-in21k"),
    "tiny-clip": ("clip", "tiny-clip"),
    "tiny-siglip": ("siglip", "tiny-siglip"),
    "tiny-bert": ("bert", "tiny-bert"),
}
"""Name -> family and checkpoint: a hub id, or a tiny checkpoint that is built from the corpus itself."""

BASE = {"clip": "clip-base", "siglip": "siglip-base", "bert": "bert-base", "vit": "vit-base"}
"""A family's bare name stands for its base preset."""


@dataclass(frozen=True)
class Branch:
    """One tower of a checkpoint: what turns one modality into features."""

    modality: str
    family: str
    checkpoint: str
    """A hub id, a local folder, or the name of a tiny checkpoint that is still to be built."""
    revision: str | None = None
    """A hub commit, or the digest of a local folder's files; None until it is resolved."""

    @property
    def is_tiny(self) -> bool:
        return PRESETS.get(self.checkpoint) == (self.family, self.checkpoint)


@dataclass(frozen=True)
class EncoderSpec:
    """What one leaderboard row reads posts with: a branch for each modality that it uses."""

    name: str
    branches: tuple[Branch, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(branch.modality for branch in self.branches)


def parse_encoder(name: str, revision: str | None = None) -> EncoderSpec:
    """The encoder that the command line names: ``a``, ``a:text``, ``a:image`` or ``a+b``, where each of a and b
    is a preset, a family, or family:path-or-hub-id; ``a+b`` takes text from a and image from b."""
    if "+" in name and name.count("+") == 1:
        text, image = name.split("+")
        branches = (_branch(text, "text", revision, name), _branch(image, "image", revision, name))
        return EncoderSpec(name=name, branches=branches)
    base, _, modality = name.rpartition(":")
    if base and modality in MODALITIES:
        return EncoderSpec(name=name, branches=(_branch(base, modality, revision, name),))
    family, _ = _checkpoint(name, name)
    return EncoderSpec(name=name, branches=tuple(_branch(name, m, revision, name) for m in FAMILIES[family]))


def _branch(base: str, modality: str, revision: str | None, name: str) -> Branch:
    family, checkpoint = _checkpoint(base, name)
    if modality not in FAMILIES[family]:
        raise UserError(
            f"--encoders {name}: {base} has no {modality} branch; it reads {' and '.join(FAMILIES[family])}."
        )
    branch = Branch(modality=modality, family=family, checkpoint=checkpoint)
    return (
        branch if branch.is_tiny else Branch(modality=modality, family=family, checkpoint=checkpoint, revision=revision)
    )


def _checkpoint(base: str, name: str) -> tuple[str, str]:
    """Family and checkpoint of a preset, a family, or family:path-or-hub-id."""
    base = BASE.get(base, base)
    if base in PRESETS:
        return PRESETS[base]
    family, colon, checkpoint = base.partition(":")
    if family in FAMILIES and colon and checkpoint:
        return family, checkpoint
    known = ", ".join(PRESETS)
    raise UserError(
        f"--encoders {name}: {base!r} is no encoder; give one of {known}, or family:path-or-hub-id "
        f"with a family of {', '.join(FAMILIES)}."
    )
