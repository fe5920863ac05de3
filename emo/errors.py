"""From whatever Ray wrapped around an error to the one sentence that it comes down to."""

import contextlib
import errno
from collections.abc import Iterator

from emo.config import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)
"""Of a share or a store that does not answer."""
BARRED = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Of one that is no longer for us."""


def sentence(error: BaseException, action: str | None = None) -> str | None:
    """What to tell the user of a mistake or a full disk; None for an error of our own, which deserves a traceback.

    With ``action``, as in "Posts cannot be written to x", every error of a file system is told as its reason.
    """
    for cause in causes(error):
        if type(cause).__name__.startswith("RayTaskError"):
            continue  # it has a traceback for a message, and its cause comes next
        if isinstance(cause, UserError):
            return str(cause).partition("\n")[0]  # Ray appends advice
        if isinstance(cause, OSError) and (action or is_outside(cause)):
            full = "The disk is full" if cause.errno in FULL else "A disk or store cannot be used"
            return f"{action or full}: {cause.strerror or cause}."
        if type(cause).__name__ == "StorageInternalError":  # of Optuna's
            said = str(cause.__cause__ or cause).strip().partition("\n")[0]
            return f"{action or 'The database of the studies cannot be used'}: {said}."
        if type(cause).__name__ == "OutOfDiskError":
            return f"{action or 'The disk is full'}: no space is left on the disk of a Ray node."
    return None


@contextlib.contextmanager
def in_words(action: str) -> Iterator[None]:
    """Turn what went wrong with a disk, a store or a database into the sentence that it comes down to."""
    try:
        yield
    except Exception as error:
        if said := sentence(error, action):
            raise UserError(said) from error
        raise


def is_outside(error: BaseException) -> bool:
    """Whether something is to blame that has nothing to do with what was tried."""
    return is_away(error) or any(
        (isinstance(cause, OSError) and cause.errno in (*FULL, *BARRED)) or type(cause).__name__ == "OutOfDiskError"
        for cause in causes(error)
    )


def is_away(error: BaseException) -> bool:
    """Whether a store did not answer, and may do so later."""
    return any(
        isinstance(cause, (ConnectionError, TimeoutError)) or (isinstance(cause, OSError) and cause.errno in AWAY)
        for cause in causes(error)
    )


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
