"""Writing that is durable or raises an error, never something in between."""

import errno
import os
from pathlib import Path


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data`` in one call. A short write is an error: the disk is full."""
    written = os.write(fd, data)
    if written != len(data):
        raise OSError(errno.ENOSPC, f"short write: {written} of {len(data)} bytes")


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_durably(path: Path, content: bytes, temporary: Path | None = None) -> None:
    """Put ``content`` at ``path``, whole and durable, for this user alone; its folder is made if missing.

    A crash may leave the temporary file, by default beside ``path``.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = temporary or path.with_name(f".{path.name}.tmp")
    fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    fsync_folder(path.parent)
