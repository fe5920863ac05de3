"""How an encoder is named on the command line, and the branches that it reads posts with."""

from dataclasses import dataclass

from emo.config import MODALITIES, UserError
from emo.encoders.presets import (
    BASE,
    FAMILIES,
    NO_LORA,
    ONE_LAYER,
    PRESETS,
    REMOTE_CODE,
    SCRATCH,
    UNTRAINED,
    Preset,
    presets_table,
)

__all__ = [
    "BASE",
    "FAMILIES",
    "NO_LORA",
    "ONE_LAYER",
    "PRESETS",
    "REMOTE_CODE",
    "SCRATCH",
    "UNTRAINED",
    "Branch",
    "EncoderSpec",
    "Preset",
    "parse_encoder",
    "presets_table",
]


@dataclass(frozen=True)
class Branch:
    """One tower of a checkpoint: what turns one modality into features."""

    modality: str
    family: str
    checkpoint: str
    """A hub id, a local folder, or the name of a preset that is still to be built from the corpus."""
    revision: str | None = None
    """A hub commit, or the digest of a local folder's files; None until it is resolved."""
    remote_code: str | None = None
    """The revision of the checkpoint's own code that may run; None where none may."""
    ignores_tags: bool = False
    """Whether a text branch leaves tags alone, since its encoder has a branch for them."""

    @property
    def is_built(self) -> bool:
        """Whether it is still to be built from the corpus."""
        preset = PRESETS.get(self.checkpoint)
        return preset is not None and (preset.family, preset.checkpoint) == (self.family, self.checkpoint)


@dataclass(frozen=True)
class EncoderSpec:
    """What one leaderboard row reads posts with: a branch for each modality that it uses."""

    name: str
    branches: tuple[Branch, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(branch.modality for branch in self.branches)


@dataclass(frozen=True)
class _Part:
    """What stands between two plus signs."""

    name: str
    family: str
    checkpoint: str
    modalities: tuple[str, ...]
    """Those that it may give."""


def parse_encoder(name: str, revision: str | None = None, remote_code: str | None = None) -> EncoderSpec:
    """The encoder that the command line names: one part, or several with a plus sign between them.

    A part is a preset, a family, or family:path-or-hub-id, each with or without ``:text``, ``:image`` or ``:tags``
    after it. A part that names its modality, or has only one, gives that; another gives what no other part does; and
    of two such parts the first gives text and the second the image. ``revision`` is that of hub checkpoints, and
    ``remote_code`` the revision of their own code that may run, where any may.
    """
    parts = [_part(part, name) for part in name.split("+")]
    given: dict[str, _Part] = {}
    for part, modalities in _shares(parts, name):
        for modality in modalities:
            if modality in given:
                raise UserError(f"--encoders {name}: {given[modality].name} and {part.name} both give {modality}.")
            given[modality] = part
    ordered = {modality: given[modality] for modality in MODALITIES if modality in given}
    branches = tuple(
        Branch(
            modality=modality,
            family=part.family,
            checkpoint=part.checkpoint,
            revision=None if _is_built(part) else revision,
            remote_code=_remote_code(part, remote_code, name),
            ignores_tags=modality == "text" and "tags" in ordered,
        )
        for modality, part in ordered.items()
    )
    return EncoderSpec(name=name, branches=branches)


def _shares(parts: list[_Part], name: str) -> list[tuple[_Part, tuple[str, ...]]]:
    """What each part gives."""
    dual = [part for part in parts if len(part.modalities) > 1]
    if len(dual) == 2:
        chosen = {dual[0]: ("text",), dual[1]: ("image",)}
        if dual[0] == dual[1]:
            raise UserError(f"--encoders {name}: {dual[0].name} stands there twice; once gives text and image.")
        return [(part, chosen.get(part, part.modalities)) for part in parts]
    if len(dual) > 2:
        raise UserError(f"--encoders {name}: say which gives what, as in {dual[0].name}:text+{dual[1].name}:image.")
    single = {modality for part in parts if part not in dual for modality in part.modalities}
    left = {part: tuple(m for m in part.modalities if m not in single) for part in dual}
    if not all(left.values()):
        raise UserError(f"--encoders {name}: nothing is left for {dual[0].name} to read; leave it out.")
    return [(part, left.get(part, part.modalities)) for part in parts]


def _part(part: str, name: str) -> _Part:
    base, _, modality = part.rpartition(":")
    if not base or modality not in MODALITIES:
        family, checkpoint = _checkpoint(part, name)
        return _Part(part, family, checkpoint, FAMILIES[family])
    family, checkpoint = _checkpoint(base, name)
    if modality not in FAMILIES[family]:
        reads = " and ".join(FAMILIES[family])
        raise UserError(f"--encoders {name}: {base} has no {modality} branch; it reads {reads}.")
    return _Part(base, family, checkpoint, (modality,))


def _checkpoint(base: str, name: str) -> tuple[str, str]:
    """Family and checkpoint of a preset, a family, or family:path-or-hub-id."""
    base = BASE.get(base, base)
    if base in PRESETS:
        return PRESETS[base].family, PRESETS[base].checkpoint
    family, _, checkpoint = base.partition(":")
    if family in FAMILIES and family not in SCRATCH and checkpoint:
        return family, checkpoint
    families = ", ".join(family for family in FAMILIES if family not in SCRATCH)
    raise UserError(
        f"--encoders {name}: {base!r} is no encoder; give one of {', '.join(PRESETS)}, or family:path-or-hub-id "
        f"with a family of {families}."
    )


def _is_built(part: _Part) -> bool:
    return Branch("", part.family, part.checkpoint).is_built


def _remote_code(part: _Part, remote_code: str | None, name: str) -> str | None:
    if part.family not in REMOTE_CODE:
        return None
    if remote_code is None:
        raise UserError(
            f"--encoders {name}: {part.name} is Python code that comes with its checkpoint and runs with your rights; "
            "read it, then allow it with --trust-remote-code and name what you have read with --revision (a commit)."
        )
    return remote_code
