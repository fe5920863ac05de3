"""What every config shares: constants, checks, and configs as JSON."""

import dataclasses
import json
import types
import typing
from typing import Any, TypeVar

C = TypeVar("C")

MODALITIES = ("text", "image", "tags")
"""What encoders read of a post."""

SPLITS = ("train", "val", "test")
ALL_SPLITS = (*SPLITS, "unlabelled")
"""The splits of labelled posts, and those with what has no labels."""

PLUTCHIK = ("anger", "anticipation", "disgust", "fear", "joy", "sadness", "surprise", "trust", "neutral")


class UserError(ValueError):
    """A mistake that the user can mend; its message is the one sentence that a job prints."""


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
