"""From whatever Ray wrapped around an error to the one sentence that it comes down to."""

import errno
from collections.abc import Iterator

from emo.config import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)


def sentence(error: BaseException, action: str | None = None) -> str | None:
    """What to tell the user of a mistake or a full disk; None for an error of our own, which deserves a traceback.

    With ``action``, as in "Posts cannot be written to x", every error of a file system is told as its reason.
    """
    for cause in causes(error):
        if type(cause).__name__.startswith("RayTaskError"):
            continue  # it has a traceback for a message, and its cause comes next
        if isinstance(cause, UserError):
            return str(cause).partition("\n")[0]  # Ray appends advice
        if isinstance(cause, OSError) and (action or cause.errno in FULL):
            return f"{action or 'The disk is full'}: {cause.strerror or cause}."
        if type(cause).__name__ == "OutOfDiskError":
            return f"{action or 'The disk is full'}: no space is left on the disk of a Ray node."
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it wraps, however Ray wrapped them."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and each not in seen:
            seen.append(each)
            waiting += [getattr(each, "cause", None), each.__cause__, each.__context__]
            yield each
