"""The quarantine: rows that ClickHouse refuses for good, one file each, and damaged bytes of the spool.

    quarantine/<segment>.<row>.json       an entry: a row with the reason, written by the flusher (``put``)
    quarantine/<segment>.<byte>.damaged   an entry: bytes whose checksum was wrong, written by the spool
    retry/<name>.<rows>.retry             rows on their way back: the names of their entries, and a whole segment

The flusher never sends a row that has an entry, so an entry may be deleted only if its segment can't come back. And a
row must never be both in the table and in an entry that could be retried. Therefore:

1. A lock on the folder allows one command at a time. A command first looks for the entries and then into the spools of
   all workers: if an entry's segment is still there, it leaves the entry alone. It syncs the folders of the spools, so
   that no power cut undoes a deletion.
2. ``retry`` makes the rows into a segment with a new name and puts it into ``retry`` by one rename. *That rename is
   the retry*. If the command is killed before, nothing has happened. After it, the named entries count as gone, and
   ``list``, ``drop`` and ``retry`` ignore them. Then the command deletes them.
3. The service takes what is in ``retry``, each second, and at its start before it looks into the spool. It deletes
   the named entries (the command may have been killed), moves the segment into the spool, deletes the file in
   ``retry``, each durably, and only then inserts the segment. If it is killed anywhere, it does the same again, with
   the same names, and none of these rows has been sent yet.
4. A row that is refused again becomes an entry of the new segment. No name of an entry is ever used twice.

So the service knows nothing of commands, and a command need not know whether the service runs. All workers write
entries, but only worker 0 takes rows back, so that only its spool can have what a killed worker had taken.
"""

import logging
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from schemas.payload import Rows
from service.errors import Rejected
from service.spool.disk import fsync_folder, replace_durably
from service.spool.format import MIXED_MAGICS, frames, has_ids
from service.spool.quarantine_entry import ENTRY, document_of
from service.spool.segment import NAME_FORM, Segment
from service.spool.spool import Spool

_RETRY = re.compile(NAME_FORM + r"\.(?P<rows>\d+)\.retry")
_COUNT_AGAIN_NS = 10**9
_log = logging.getLogger(__name__)
_decode = msgspec.msgpack.Decoder(tuple[list[str], bytes]).decode


class QuarantineSize(NamedTuple):
    """What the quarantine holds: refused events, damaged stretches, and the bytes of both."""

    events: int
    files: int
    bytes: int


class Quarantine:
    """The quarantine of a data folder, as the service uses it; commands are in ``quarantine_commands``.

    ``takes_back``: whether this worker takes what is in ``retry``.
    """

    def __init__(self, data: Path, *, takes_back: bool = True) -> None:
        self.folder = data / "quarantine"
        self.size = QuarantineSize(0, 0, 0)
        self._retry = data / "retry"
        self._data = data
        self._takes_back = takes_back
        self._counted = 0
        self._unreadable: set[Path] = set()

    def put(self, segment: str, index: int, rows: Rows, error: Rejected) -> None:
        """Keep the only row of ``rows``, which is from this segment; durable on return."""
        [row] = rows.decode()
        replace_durably(self.folder / f"{segment}.{index}.json", document_of(segment, index, rows.header, row, error))
        _log.error("ClickHouse will never take row %d of %s, now in the quarantine: %s", index, segment, error)

    def rows_of(self, segment: str) -> set[int]:
        """Which rows of a segment are here. They stay, even if the table would accept them now."""
        found = (ENTRY.fullmatch(path.name) for path in self.folder.glob(f"{segment}.*.json"))
        return {int(match["position"]) for match in found if match}

    def count(self) -> None:
        """Update ``size`` if the flusher, a command or a person has changed the folder."""
        try:
            changed = self.folder.stat().st_mtime_ns
        except FileNotFoundError:
            self.size = QuarantineSize(0, 0, 0)
            return
        if changed == self._counted:
            return
        # A later change may have the same time, since the clock is coarse: count again until that time is past.
        self._counted = changed if time.time_ns() - changed > _COUNT_AGAIN_NS else 0
        events = files = total = 0
        with os.scandir(self.folder) as found:
            for one in found:
                if not ENTRY.fullmatch(one.name):
                    continue
                try:
                    total += one.stat().st_size
                except FileNotFoundError:
                    continue
                events += one.name.endswith(".json")
                files += one.name.endswith(".damaged")
        self.size = QuarantineSize(events, files, total)

    def returning(self) -> list[Path]:
        """The files in ``retry``, oldest first."""
        if not self._takes_back or not self._retry.is_dir():
            return []
        found = (path for path in self._retry.iterdir() if _RETRY.fullmatch(path.name))
        return sorted(path for path in found if path not in self._unreadable)

    def waiting(self) -> set[str]:
        """The names of the segments in ``retry``: if one is in the spool too, it is not sent before it is taken."""
        return {path.name.split(".")[0] for path in self.returning()}

    def take(self, path: Path, spool: Spool) -> Segment | None:
        """Step 3: move the segment of a file in ``retry`` into the spool. Raises OSError: then try again later."""
        name, rows, _ = path.name.split(".")
        try:
            names, content = read_returning(path)
        except msgspec.MsgspecError as error:
            _log.error("%s is damaged (%s): left alone", path, error)
            self._unreadable.add(path)
            return None
        fsync_folder(self._retry)  # the command may not have made the name durable yet
        delete_entries(self.folder, names)
        mixed = content.startswith(MIXED_MAGICS)
        ids = None if mixed else sum(count for start, _, count, _ in frames(content) if has_ids(content, start))
        segment = spool.adopt(name, int(rows), ids, content, self._retry / f".{name}.sealed")
        path.unlink()
        try:
            fsync_folder(self._retry)
        except OSError as error:  # if a power cut brings the file back, the table is asked for its rows, as always
            _log.warning("the deletion of %s may not be durable: %s", path, error)
        _log.info("%d events of the quarantine will be tried again, segment %s", segment.rows, segment.name)
        return segment


def read_returning(path: Path) -> tuple[list[str], bytes]:
    """The names of the entries in a file of ``retry``, and its segment. Raises OSError, MsgspecError."""
    return _decode(path.read_bytes())


def delete_entries(folder: Path, names: Iterable[str]) -> None:
    """Delete these entries of the folder, durable on return; some may be gone already."""
    for name in names:
        if ENTRY.fullmatch(name):
            (folder / name).unlink(missing_ok=True)
    if folder.is_dir():
        fsync_folder(folder)
