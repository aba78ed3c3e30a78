"""The data folder: created, checked for writing, and locked by one service: one process, or it and its workers."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from service.errors import StartError

#: In the data folder, where a running service answers SQL to those who may read the folder.
SQL_SOCKET = "sql.sock"


def worker_folder(data: Path, number: int) -> Path:
    """The folder of a worker, with its spool and its count: for worker 0, usually the only one, the data folder."""
    return data / "workers" / str(number) if number else data


def spool_of(data: Path, number: int) -> Path:
    """The spool of a worker."""
    return worker_folder(data, number) / "spool"


def worker_folders(data: Path) -> dict[int, Path]:
    """The folders of all workers that ever existed, by number, the highest first."""
    found = (path for path in (data / "workers").glob("*") if path.name.isdecimal() and path.is_dir())
    numbers = {0, *(int(path.name) for path in found)}
    return {number: worker_folder(data, number) for number in sorted(numbers, reverse=True)}


class DataDir:
    """The folder ``ANALYTICS_DATA_DIR``, locked from ``DataDir(...)`` to ``close``.

    Forked processes share the lock: it is free when all of them have closed it or ended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.spool = self.folder / "spool"
        self.quarantine = self.folder / "quarantine"
        self.retry = self.folder / "retry"
        self.workers = self.folder / "workers"
        self.in_flight = self.folder / "in-flight"
        self.clickhouse = self.folder / "clickhouse"
        self.tokens = self.folder / "tokens.json"
        self.first_tokens = self.folder / "first-tokens.txt"
        self._temporary = self.folder / "tmp"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for own in (self.spool, self.quarantine, self.retry):
                own.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(
                f"the data folder {self.folder} can't be written ({error.strerror}):"
                " give this user the rights to it, or set ANALYTICS_DATA_DIR to another folder"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise StartError(
                f"the data folder {self.folder} is in use by another instance (process {holder}):"
                " stop that one, or set ANALYTICS_DATA_DIR to another folder"
            ) from None
        self.sign()

    def sign(self) -> None:
        """Write this process's id into the lock file."""
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        except OSError:  # only the message above needs it; a full disk must not stop a start, which drains it
            pass

    def make_worker_folders(self, count: int) -> None:
        """Create the folders of ``count`` workers. Raises StartError."""
        try:
            for folder in (self.workers, *(worker_folder(self.folder, number) for number in range(1, count))):
                folder.mkdir(mode=0o700, exist_ok=True)
                if folder != self.workers:
                    (folder / "spool").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartError(f"the folder {self.workers} can't be written ({error.strerror})") from None

    def use_private_temporary_folder(self) -> None:
        """Create or empty a folder of our own for temporary files.

        The embedded ClickHouse writes event data there, and a kill -9 leaves it behind.
        """
        try:
            if self._temporary.is_symlink():
                self._temporary.unlink()
            elif self._temporary.exists():
                shutil.rmtree(self._temporary)
            self._temporary.mkdir(mode=0o700)
        except OSError as error:
            raise StartError(
                f"the folder {self._temporary} can't be emptied ({error.strerror or error}):"
                " delete it, or mend the disk"
            ) from None
        os.environ["TMPDIR"] = tempfile.tempdir = str(self._temporary)

    def close(self) -> None:
        """Release the folder for another process."""
        with suppress(OSError):
            os.close(self._lock)
