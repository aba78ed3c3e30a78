"""The quarantine: rows that ClickHouse refuses for good, one file each, and damaged bytes of the spool.

    quarantine/<token>.<row>.json       an entry: a row with the reason, written by the flusher (``put``)
    quarantine/<token>.<byte>.damaged   an entry: bytes whose checksum was wrong, written by the spool
    retry/<token>.<rows>.retry          rows on their way back: the names of their entries, and a whole segment

The flusher never sends a row that has an entry, so an entry may go only if its segment can't come back. And a
row must never be in the table and in an entry that could be retried. Therefore:

1. One command at a time, by a lock on the folder. It looks for the entries first and into the spools of all workers
   then: an entry whose segment is still there is left alone. It syncs their folders, so that no power cut undoes a
   deletion.
2. ``retry`` makes rows into a segment with a fresh token and puts it into ``retry`` by one rename. *That rename is
   the retry*: killed before, nothing has happened; from then on the named entries count as gone, and every later
   ``list``, ``drop`` and ``retry`` overlooks them. Then it deletes them.
3. The service takes what is in ``retry``, each second and at its start before it looks into the spool: it deletes
   the named entries (the command may have been killed), moves the segment into the spool, deletes the file in
   ``retry``, each durably, and only then inserts the segment. Killed anywhere, it does the same again, with the same
   token and the same file names, and nothing of it has been sent before.
4. A row that is refused again is an entry of the new segment. No name of an entry ever comes twice.

So the service needs to know nothing of commands, nor a command whether the service runs. Of several workers all put
entries, and worker 0 alone takes back: nobody else's spool may have what a killed one has taken.
"""

import fcntl
import logging
import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from schemas.payload import Header, Rows, encode_header, encode_rows
from schemas.rows import BY_CLIENT, CURRENT
from service.errors import Rejected, StartError
from service.spool.data_dir import spool_of, worker_folders
from service.spool.disk import fsync_folder, replace_durably
from service.spool.format import FILE_MAGIC, MIXED_MAGICS, encode_frame, frames, has_ids
from service.spool.quarantine_entry import ENTRY, Entry, document_of
from service.spool.segment import NAME_FORM, Segment, new_token
from service.spool.spool import Spool

#: Rows that go back as one segment, and the bytes of their entries if they are several.
RETRY_ROWS, RETRY_BYTES = 1000, 8 * 2**20
_RETRY = re.compile(NAME_FORM + r"\.(?P<rows>\d+)\.retry")
_COUNT_AGAIN_NS = 10**9
_log = logging.getLogger(__name__)
_decode = msgspec.msgpack.Decoder(tuple[list[str], bytes]).decode


class Held(NamedTuple):
    """What the quarantine holds: refused events, damaged stretches, and the bytes of both."""

    events: int
    files: int
    bytes: int


class Outcome(NamedTuple):
    """What became of an entry that was to be dropped or retried: no problem, or why it is still there."""

    name: str
    problem: str | None = None


class Quarantine:
    """The quarantine of a data folder. The service's part comes first, the command's after it.

    ``takes_back``: whether this worker is the one that takes what is in ``retry``.
    """

    def __init__(self, data: Path, *, takes_back: bool = True) -> None:
        self.folder = data / "quarantine"
        self.held = Held(0, 0, 0)
        self._retry = data / "retry"
        self._data = data
        self._takes_back = takes_back
        self._counted = 0
        self._unreadable: set[Path] = set()

    # -- the service --------------------------------------------------------------------------

    def put(self, token: str, index: int, rows: Rows, error: Rejected) -> None:
        """Keep a row of a segment, the only one of ``rows``, durable on return."""
        [row] = rows.decode()
        replace_durably(self.folder / f"{token}.{index}.json", document_of(token, index, rows.header, row, error))
        _log.error("ClickHouse will never take row %d of %s, now in the quarantine: %s", index, token, error)

    def rows_of(self, token: str) -> set[int]:
        """Which rows of a segment are here. They stay, even if the table would take them by now."""
        found = (ENTRY.fullmatch(path.name) for path in self.folder.glob(f"{token}.*.json"))
        return {int(match["position"]) for match in found if match}

    def count(self) -> None:
        """Bring ``held`` up to date, if the folder has changed: by the flusher, a command or a person."""
        try:
            changed = self.folder.stat().st_mtime_ns
        except FileNotFoundError:
            self.held = Held(0, 0, 0)
            return
        if changed == self._counted:
            return
        # A later change may bear the same time, by the grain of the clock: count again until it lies back.
        self._counted = changed if time.time_ns() - changed > _COUNT_AGAIN_NS else 0
        events = files = size = 0
        with os.scandir(self.folder) as found:
            for one in found:
                if not ENTRY.fullmatch(one.name):
                    continue
                try:
                    size += one.stat().st_size
                except FileNotFoundError:
                    continue
                events += one.name.endswith(".json")
                files += one.name.endswith(".damaged")
        self.held = Held(events, files, size)

    def returning(self) -> list[Path]:
        """The files in ``retry``, oldest first."""
        if not self._takes_back or not self._retry.is_dir():
            return []
        found = (path for path in self._retry.iterdir() if _RETRY.fullmatch(path.name))
        return sorted(path for path in found if path not in self._unreadable)

    def waiting(self) -> set[str]:
        """The tokens of the segments in ``retry``: one that is in the spool as well is not sent before it is taken."""
        return {path.name.split(".")[0] for path in self.returning()}

    def take(self, path: Path, spool: Spool) -> Segment | None:
        """Step 3: the segment of a file in ``retry``, now in the spool. Raises OSError: then do it again later."""
        token, rows, _ = path.name.split(".")
        try:
            names, content = _decode(path.read_bytes())
        except msgspec.MsgspecError as error:
            _log.error("%s is damaged (%s): left alone", path, error)
            self._unreadable.add(path)
            return None
        fsync_folder(self._retry)  # we may have seen a name that the command has not yet made durable
        self._delete(names)
        mixed = content.startswith(MIXED_MAGICS)
        ids = None if mixed else sum(count for start, _, count, _ in frames(content) if has_ids(content, start))
        segment = spool.adopt(token, int(rows), ids, content, self._retry / f".{token}.sealed")
        path.unlink()
        try:
            fsync_folder(self._retry)
        except OSError as error:  # if a power cut brings the file back, its rows are asked for like any others
            _log.warning("the deletion of %s may not be durable: %s", path, error)
        _log.info("%d events of the quarantine are tried again, token %s", segment.rows, segment.token)
        return segment

    # -- the command --------------------------------------------------------------------------

    def entries(self, names: Collection[str] | None = None) -> list[Entry]:
        """All entries, or those of these names, oldest first. Raises StartError if one is not there."""
        self._check_folder()
        gone = {name for path in self.returning() for name in _names(path)}  # before looking: see step 3
        there = {}
        for path in self.folder.iterdir():
            match = ENTRY.fullmatch(path.name)
            if match and path.name not in gone:
                there[path.name] = Entry(path, match["token"], int(match["position"]))
        if missing := sorted(set(names or ()) - there.keys()):
            raise StartError(f"the quarantine {self.folder} has no entry named {missing[0]!r}")
        wanted = there.values() if names is None else (there[name] for name in set(names))
        return sorted(wanted, key=lambda one: (one.token, one.position, one.path))

    def drop(self, names: Collection[str] | None) -> Iterator[Outcome]:
        """Delete entries, all or these; each is named first."""
        with self._alone():
            for entry, problem in self._settled(names):
                yield Outcome(entry.path.name, problem)
                if not problem:
                    entry.path.unlink(missing_ok=True)
            fsync_folder(self.folder)

    def retry(self, names: Collection[str] | None) -> Iterator[Outcome]:
        """Send rows back to ClickHouse, all or these; each is named when that is durable."""
        with self._alone():
            for leftover in self._retry.glob(".*.tmp"):  # of a command that was killed
                leftover.unlink(missing_ok=True)
            group: list[str] = []
            rows: list[tuple[Any, ...]] = []
            size, header = 0, CURRENT
            for entry, problem in self._settled(names):
                if entry.damaged and names is None:
                    continue
                try:
                    if problem or entry.damaged:
                        raise ValueError(problem or "damaged bytes can't be retried")
                    own, row = entry.row()
                    own_size = entry.path.stat().st_size
                except (OSError, ValueError) as error:
                    yield Outcome(entry.path.name, problem or f"can't be retried: {error}")
                    continue
                if group and (own != header or len(group) >= RETRY_ROWS or size + own_size > RETRY_BYTES):
                    yield from self._send_back(group, header, rows)
                    group, rows, size = [], [], 0
                header, size = own, size + own_size
                group.append(entry.path.name)
                rows.append(row)
            if group:
                yield from self._send_back(group, header, rows)

    def _send_back(self, names: list[str], header: Header, rows: list[tuple[Any, ...]]) -> Iterator[Outcome]:
        origin = header.names.index("id_origin") if "id_origin" in header.names else None
        kinds: dict[bool, list[tuple[Any, ...]]] = {False: [], True: []}
        for row in rows:
            kinds[origin is not None and row[origin] == BY_CLIENT].append(row)
        encoded = [encode_frame(encode_header(header), 0)]
        for with_ids, some in kinds.items():
            if some:
                encoded.append(encode_frame(encode_rows(some, header.types).payload, len(some), with_ids=with_ids))
        content = msgspec.msgpack.encode((names, FILE_MAGIC + b"".join(encoded)))
        token = new_token(time.time_ns() // 1_000_000)
        replace_durably(self._retry / f"{token}.{len(rows)}.retry", content)
        self._delete(names)
        yield from (Outcome(name) for name in names)

    def _settled(self, names: Collection[str] | None) -> list[tuple[Entry, str | None]]:
        """Step 1: the entries, each with what is against touching it."""
        entries = self.entries(names)
        if self._retry.is_dir():  # an entry of a segment from there may be touched only if that can't come back
            fsync_folder(self._retry)
        # An open segment becomes a sealed one, and one moves to a worker of a lower number (see leftovers), never the
        # reverse: in this order none slips through.
        busy = set()
        for number in worker_folders(self._data):
            spool = spool_of(self._data, number)
            busy |= {path.name.split(".")[0] for suffix in ("open", "sealed") for path in spool.glob(f"*.{suffix}")}
            if spool.is_dir():
                fsync_folder(spool)
        problem = "its segment is still in the spool: wait until the service has inserted the other rows of it"
        return [(entry, problem if entry.token in busy else None) for entry in entries]

    def _delete(self, names: list[str]) -> None:
        for name in names:
            if ENTRY.fullmatch(name):
                (self.folder / name).unlink(missing_ok=True)
        if self.folder.is_dir():
            fsync_folder(self.folder)

    def _check_folder(self) -> None:
        if not self.folder.is_dir():
            raise StartError(f"there is no {self.folder}: is ANALYTICS_DATA_DIR that of the service?")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._check_folder()
        if self.folder.stat().st_uid != os.geteuid():  # the service could not read what we leave for it
            raise StartError(f"{self.folder} belongs to another user: run this as the user of the service")
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _names(path: Path) -> list[str]:
    try:
        return _decode(path.read_bytes())[0]
    except (FileNotFoundError, msgspec.MsgspecError):  # taken meanwhile; damaged: the service says so
        return []
