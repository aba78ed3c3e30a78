"""Which row ranges of a segment ClickHouse has rejected: remembered on disk before their halves are sent.

A file ``<token>.splits`` beside the segment holds a record ``start-stop;`` for each, on a line of its own.
A record that a crash has torn lacks its semicolon, and is none. A file without any record says that the segment
may have been tried.
"""

import os
import re
from pathlib import Path

from service.disk import fsync_folder, write_all

_RECORD = re.compile(rb"(\d+)-(\d+);")


class Splits:
    """The splits of the segments in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(self, token: str, start: int, stop: int) -> None:
        """Remember durably that rows ``start`` to ``stop`` of the segment were rejected as one batch."""
        path = self._path(token)
        new = not path.exists()
        fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, b"\n%d-%d;" % (start, stop))
            os.fsync(fd)
        finally:
            os.close(fd)
        if new:
            fsync_folder(self._folder)

    def mark(self, token: str) -> None:
        """Remember durably that the segment may have been tried."""
        path = self._path(token)
        if not path.exists():
            path.touch(mode=0o600)
            fsync_folder(self._folder)

    def marked(self, token: str) -> bool:
        """Whether the segment is known to have been tried, or marked."""
        return self._path(token).exists()

    def of(self, token: str) -> set[tuple[int, int]]:
        """The row ranges that were recorded."""
        try:
            content = self._path(token).read_bytes()
        except FileNotFoundError:
            return set()
        return {(int(start), int(stop)) for start, stop in _RECORD.findall(content)}

    def forget(self, token: str) -> None:
        """The segment is gone."""
        self._path(token).unlink(missing_ok=True)

    def _path(self, token: str) -> Path:
        return self._folder / f"{token}.splits"
