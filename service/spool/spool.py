"""The spool: a folder of segment files that hold acknowledged events until ClickHouse has confirmed them.

Synchronous, and bytes only: this module does not know what a payload means. The writer calls ``append``, ``seal`` and
``probe`` on one thread; the flusher calls ``read``, ``drop`` and ``adopt`` on another. The two share no state but the
folder. There is no record but the files: *a segment's existence means "not confirmed"*, and deleting it is the commit.

    <name>.open                      segment being appended to; at most one while running
    <name>.<rows>.sealed             closed, to be inserted as one batch; never changed
    <name>.<rows>-<with ids>.sealed  the same; so many of its rows have ids of clients, in frames of their own

Each worker has a spool of its own; ``rebalance`` moves segments between them, while no worker runs.

A name is 12 hex digits of milliseconds since 1970 and 16 random ones: names sort by age, and no name
is ever used twice, whatever happens to the clock or the folder. (With a name used twice,
ClickHouse would silently drop new data.)

``format`` has the format of a file.

``append`` returns when its frame is durable: one write, one fdatasync. After any error the file is
cut to its last good length and sealed, and the next append opens another: a failed fsync is never
repeated (the kernel may have dropped the pages and would report success).

Only the tail of the open file can be torn, by a crash during a write: recovery cuts it. Checksums show damage: the
frames behind it are found by their magic and kept, and the damaged bytes are copied to the quarantine.
"""

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from schemas.payload import EncodedRows
from service.errors import StartError
from service.spool.disk import fsync_folder, replace_durably, write_all
from service.spool.format import (
    FILE_MAGIC,
    MIXED_MAGICS,
    READABLE_MAGICS,
    REFUSED,
    encode_frame,
    frames,
    has_ids,
    is_torn,
    rows_lost,
)
from service.spool.segment import OPEN, SEALED, Segment, new_name, read_splits, sealed_name

_log = logging.getLogger(__name__)


class Contents(NamedTuple):
    """The intact parts of a segment's file: the header (empty if damaged), and the payloads of rows in order."""

    header: bytes
    parts: list[EncodedRows]


class Spool:
    """The folder of segments. Each new segment begins with ``header``."""

    def __init__(self, folder: Path, quarantine: Path, header: bytes) -> None:
        self.folder = folder
        self.quarantine = quarantine
        self.header = header
        #: Bytes in the spools of other workers, as of a moment ago.
        self.elsewhere = 0
        #: Rows and bytes in the open segment.
        self.open_rows = 0
        self.open_size = 0
        self._open_ids = 0
        #: Seconds that the last fdatasync took.
        self.sync_seconds = 0.0
        self._added = self._dropped = 0  # bytes; each is changed by one thread only
        #: Names of files in the folder that we don't know: reported, never touched.
        self.unknown_files: list[str] = []
        self._fd = -1
        self._path = folder
        self._name = ""
        self._last_millisecond = 0

    @property
    def size(self) -> int:
        """Bytes in all segments, the open one included."""
        return self._added - self._dropped

    @property
    def filled(self) -> int:
        """The bytes that count against the cap: ours, and those in the spools of other workers."""
        return self._added - self._dropped + self.elsewhere

    # -- start --------------------------------------------------------------------------------

    def recover(self) -> list[Segment]:
        """Seal what an earlier process left open, and return all segments, oldest first."""
        segments = []
        for path in sorted(self.folder.iterdir()):
            if match := OPEN.fullmatch(path.name):
                segment = self._recover_open(match["name"], path)
            elif SEALED.fullmatch(path.name):
                segment = self._sealed(path)
            else:
                if path.name != "probe" and path.suffix != ".splits":
                    self.unknown_files.append(path.name)
                continue
            if segment:
                segment = segment._replace(splits=read_splits(self._splits(segment)))
                segments.append(segment)
                self._last_millisecond = max(self._last_millisecond, int(segment.name[:12], 16))
        self._added, self._dropped = sum(segment.size for segment in segments), 0
        return segments

    def _sealed(self, path: Path) -> Segment:
        match = SEALED.fullmatch(path.name)
        assert match  # noqa: S101  # the caller has checked
        ids = None if self._magic(path) in MIXED_MAGICS else int(match["ids"] or 0)
        return Segment(match["name"], int(match["rows"]), path, path.stat().st_size, ids)

    def _magic(self, path: Path) -> bytes:
        """The magic at the head of a segment. Raises StartError if a later version wrote it."""
        with path.open("rb") as file:
            magic = file.read(len(FILE_MAGIC))
        if len(magic) == len(FILE_MAGIC) and magic not in READABLE_MAGICS and magic[:-1] == FILE_MAGIC[:-1]:
            raise StartError(
                f"{path} is a segment of format {magic[-1:].decode(errors='replace')!r}, which this version can't read:"
                " start the version that wrote it, let it drain, then upgrade"
            )
        return magic

    def _recover_open(self, name: str, path: Path) -> Segment | None:
        self._magic(path)
        data = path.read_bytes()
        good = len(data)
        if (last := _last_damage(data)) is not None and is_torn(data, last):
            good, data = last, data[:last]
        # Damaged rows count as in a sealed segment: the name includes them, and reading it shows that they are missing.
        rows, ids = _count_rows(data)
        if not rows:
            path.unlink()
            return None
        if good != path.stat().st_size:
            fd = os.open(path, os.O_RDWR)
            try:
                os.ftruncate(fd, good)
                os.fsync(fd)
            finally:
                os.close(fd)
        return self._rename_sealed(name, rows, ids, path, good)

    # -- writing ------------------------------------------------------------------------------

    def append(self, *groups: EncodedRows) -> None:
        """Add a frame for each group to the open segment, durable on return.

        Raises OSError: then none of them is kept, and ``seal`` must be called before the next append.
        """
        if self._fd < 0:
            self._create()
        frame = b"".join([encode_frame(one.payload, one.count, with_ids=one.with_ids) for one in groups])
        write_all(self._fd, frame)
        started = time.perf_counter()
        os.fdatasync(self._fd)
        self.sync_seconds = time.perf_counter() - started
        if not os.fstat(self._fd).st_nlink:  # the sync succeeds but keeps nothing
            raise OSError(errno.ENOENT, "the open segment was deleted", str(self._path))
        self.open_rows += sum([one.count for one in groups])
        self._open_ids += sum([one.count for one in groups if one.with_ids])
        self.open_size += len(frame)
        self._added += len(frame)

    def _create(self) -> None:
        # At least one more than the last: names sort by age even if the clock stands still or goes back.
        self._last_millisecond = max(self._last_millisecond + 1, time.time_ns() // 1_000_000)
        self._name = new_name(self._last_millisecond)
        self._path = self.folder / f"{self._name}.open"
        head = FILE_MAGIC + encode_frame(self.header, 0)
        fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, head)
            os.fsync(fd)
            fsync_folder(self.folder)
        except OSError:
            os.close(fd)
            self._path.unlink(missing_ok=True)
            raise
        self._fd, self.open_size = fd, len(head)
        self._added += len(head)

    def seal(self) -> Segment | None:
        """Close the open segment at its last good length. None if it is empty."""
        if self._fd < 0:
            return None
        fd, self._fd = self._fd, -1
        if _size_of(fd) != self.open_size:  # an append failed half way
            # First make it unreadable, then cut it: on a dying disk perhaps only one of the two works.
            for step in (
                lambda: os.pwrite(fd, REFUSED, self.open_size),
                lambda: os.ftruncate(fd, self.open_size),
                lambda: os.fsync(fd),
            ):
                self._try("cut", step)
        self._try("close", lambda: os.close(fd))  # what was acknowledged was synced before
        rows, self.open_rows = self.open_rows, 0
        ids, self._open_ids = self._open_ids, 0
        size, self.open_size = self.open_size, 0
        if rows:
            return self._rename_sealed(self._name, rows, ids, self._path, size)
        self._added -= size
        self._try("delete", lambda: self._path.unlink(missing_ok=True))  # it is empty: else recovery deletes it
        return None

    def _try(self, what: str, step: Callable[[], object]) -> None:
        try:
            step()
        except OSError as error:
            _log.error("could not %s %s: %s", what, self._path, error.strerror or error)

    def _rename_sealed(self, name: str, rows: int, ids: int | None, path: Path, size: int) -> Segment:
        sealed = path.with_name(sealed_name(name, rows, ids or 0))
        try:
            # No fsync of the folder: if a power cut undoes the name, recovery gives the same one again.
            path.rename(sealed)
        except OSError as error:
            _log.error("could not rename %s: %s", path, error)
            if not _exists(sealed):  # some file systems rename but report a failure
                sealed = path
        return Segment(name, rows, sealed, size, ids)

    def holds_all(self, segment: Segment) -> bool:
        """Whether all rows of a segment can be read back from its file."""
        try:
            found = [(rows, payload is None) for _, _, rows, payload in frames(segment.path.read_bytes())]
        except (OSError, MemoryError):
            return False
        total = 0
        for rows, damaged in found:
            total += rows
            if damaged or total >= segment.rows:
                break
        return total == segment.rows

    def probe(self, *, sync: bool) -> None:
        """Raise OSError if the folder takes no writes now. Without ``sync`` the disk itself is not touched."""
        path = self.folder / "probe"
        try:
            fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                write_all(fd, bytes(4096))
                if sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
        finally:
            path.unlink(missing_ok=True)

    # -- reading and deleting -----------------------------------------------------------------

    def read(self, segment: Segment) -> Contents:
        """The intact parts of the segment's file. Damaged bytes are copied to the quarantine first."""
        data = segment.path.read_bytes()
        header, parts, rows = b"", [], 0
        for start, end, count, payload in frames(data):
            if rows == segment.rows:  # what follows was refused but could not be cut off
                break
            rows += count
            if payload is None:
                replace_durably(self.quarantine / f"{segment.name}.{start}.damaged", data[start:end])
                _log.error("%s is damaged from byte %d to %d: copied to the quarantine", segment.path, start, end)
            elif count:
                parts.append(EncodedRows(payload, count, has_ids(data, start)))
            else:
                header = payload
        return Contents(header, parts)

    def put_aside(self, segment: Segment) -> None:
        """Copy a whole segment whose rows can't be read to the quarantine."""
        replace_durably(self.quarantine / f"{segment.name}.0.damaged", segment.path.read_bytes())

    def find(self, name: str) -> Segment | None:
        """A segment of this folder, even if it could not be renamed; None if it is not there. Raises OSError."""
        for path in self.folder.iterdir():  # a glob would find nothing in an unreadable folder
            if not path.name.startswith(f"{name}."):
                continue
            if SEALED.fullmatch(path.name):
                return self._sealed(path)
            if OPEN.fullmatch(path.name):
                rows, ids = _count_rows(data := path.read_bytes())
                return Segment(name, rows, path, len(data), ids)
        return None

    def drop(self, segment: Segment) -> None:
        """Delete a segment that ClickHouse has confirmed.

        Not synced: if a power cut undoes this, the next start finds the rows in the table and deletes it again.
        """
        segment.path.unlink(missing_ok=True)
        if segment.splits:
            self._splits(segment).unlink(missing_ok=True)
        self._dropped += segment.size

    def _splits(self, segment: Segment) -> Path:
        return self.folder / f"{segment.name}.splits"

    def adopt(self, name: str, rows: int, ids: int | None, content: bytes, temporary: Path) -> Segment:
        """Put a whole segment into the folder, durably; an earlier try may have done so already."""
        path = self.folder / sealed_name(name, rows, ids or 0)
        if path.exists():
            fsync_folder(self.folder)
        else:
            try:
                replace_durably(path, content, temporary)
            finally:
                self._dropped -= len(content) if path.exists() else 0  # the counter of this thread
        return Segment(name, rows, path, len(content), ids)


def _size_of(fd: int) -> int:
    try:
        return os.fstat(fd).st_size
    except OSError:
        return -1


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _last_damage(data: bytes) -> int | None:
    """Where the damage at the end of a file begins; None if its last frame is whole."""
    last = None
    for start, _, _, payload in frames(data):
        last = start if payload is None else None
    return last


def _count_rows(data: bytes) -> tuple[int, int | None]:
    """How many rows a segment held, and how many of them have ids of clients, as in ``Segment``.

    Damaged rows count too, as far as the heads of their frames tell.
    """
    counted = [
        (rows_lost(data, start, end) if payload is None else rows, has_ids(data, start))
        for start, end, rows, payload in frames(data)
    ]
    mixed = data.startswith(MIXED_MAGICS)
    return sum(rows for rows, _ in counted), None if mixed else sum(rows for rows, ids in counted if ids)
