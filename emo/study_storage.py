"""Where Optuna's studies lie: a journal in the run's folder, or a database that several sweeps share."""

import fcntl
import os
import tempfile
from typing import IO, Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from emo import storage
from emo.config import UserError
from emo.config.sweep import without_password
from emo.patience import patiently

JOURNAL = "optuna.log"
CONNECT_SECONDS = 10


class Journal:
    """Optuna's journal, in the run's folder or, where that is on an object store, in a copy on this machine that is
    brought there whole; trials that ended since are run again should this machine be lost."""

    def __init__(self, run: str) -> None:
        self.uri, self.is_copy = storage.join(run, JOURNAL), storage.is_remote(run)
        if self.is_copy:
            self.path = os.path.join(tempfile.mkdtemp(prefix="emo-"), JOURNAL)
            if storage.exists(self.uri):
                with open(self.path, "wb") as file:
                    file.write(storage.read_bytes(self.uri))
        else:
            storage.make_folder(run)
            self.path = storage.absolute(self.uri)
        self.owner = _only_one(self.path)
        _cut_torn_line(self.path)
        storage.remove(f"{self.path}.lock")  # left by a process that was killed
        self.storage = JournalStorage(JournalFileBackend(self.path, JournalFileOpenLock(self.path)))

    def keep(self) -> None:
        """Bring the copy to where the run lies."""
        if self.is_copy:
            with open(self.path, "rb") as file:
                storage.write_bytes(self.uri, file.read())


def _only_one(path: str) -> IO[str]:
    """What keeps other processes of this machine from writing to the journal, until this one ends; a UserError where
    one does already."""
    owner = open(f"{path}.owner", "a", encoding="utf-8")  # noqa: SIM115, open as long as the process writes
    try:
        fcntl.lockf(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"{path} is being written by another process; wait for it, or end it.") from None
    return owner


def _cut_torn_line(path: str) -> None:
    """Take away the last line of a file where its writer was killed in the middle of it."""
    if os.path.exists(path):
        with open(path, "r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def open_database(url: str) -> BaseStorage:
    """The studies' tables in a database, made where they are not there; a UserError where it cannot be reached.

    Connections that broke are made anew, with patience once the first one stood.
    """
    shown = without_password(url)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if make_url(url).get_backend_name() == "postgresql":
        options["connect_args"] = {"connect_timeout": CONNECT_SECONDS}
    try:
        opened = RDBStorage(url, engine_kwargs=options)
    except ImportError as error:
        raise UserError(f"--optuna-storage {shown} needs a package: {error}; try pip install emo[postgres].") from None
    except (OperationalError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"--optuna-storage {shown} cannot be used: {reason}.") from None
    event.listen(opened.engine, "do_connect", _connect_patiently)
    return opened


def _connect_patiently(dialect: Any, record: Any, args: Any, kwargs: Any) -> Any:
    def away(error: Exception) -> bool:
        return isinstance(error, dialect.loaded_dbapi.OperationalError)

    return patiently("the database of the studies", lambda: dialect.connect(*args, **kwargs), away)
