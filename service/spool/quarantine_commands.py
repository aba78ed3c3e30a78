"""What an operator does with the quarantine: list, drop, retry. Its protocol is at the head of ``quarantine``."""

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from schemas.payload import Header, encode_header, encode_rows
from schemas.rows import BY_CLIENT, CURRENT
from service.errors import StartError
from service.spool.data_dir import spool_of, worker_folders
from service.spool.disk import fsync_folder, replace_durably
from service.spool.format import FILE_MAGIC, encode_frame
from service.spool.quarantine import Quarantine, delete_entries, read_returning
from service.spool.quarantine_entry import ENTRY, Entry
from service.spool.segment import new_name

#: At most so many rows go back as one segment; and so many bytes of their entries, unless it is only one.
RETRY_ROWS, RETRY_BYTES = 1000, 8 * 2**20


class EntryResult(NamedTuple):
    """The result for an entry that should be dropped or retried: no problem, or why it is still there."""

    name: str
    problem: str | None = None


class QuarantineCommands:
    """The quarantine of a data folder, as commands use it, whether the service runs or not."""

    def __init__(self, data: Path) -> None:
        self._service = Quarantine(data)
        self.folder = self._service.folder
        self._retry = data / "retry"
        self._data = data

    def entries(self, names: Collection[str] | None = None) -> list[Entry]:
        """All entries, or those with these names, oldest first. Raises StartError if one does not exist."""
        self._check_folder()
        gone = {name for path in self._service.returning() for name in _names(path)}  # before looking: see step 3
        there = {}
        for path in self.folder.iterdir():
            match = ENTRY.fullmatch(path.name)
            if match and path.name not in gone:
                there[path.name] = Entry(path, match["name"], int(match["position"]))
        if missing := sorted(set(names or ()) - there.keys()):
            raise StartError(f"the quarantine {self.folder} has no entry named {missing[0]!r}")
        wanted = there.values() if names is None else (there[name] for name in set(names))
        return sorted(wanted, key=lambda one: (one.segment, one.position, one.path))

    def drop(self, names: Collection[str] | None) -> Iterator[EntryResult]:
        """Delete all entries or these; yield each before it is deleted."""
        with self._alone():
            for entry, problem in self._with_problems(names):
                yield EntryResult(entry.path.name, problem)
                if not problem:
                    entry.path.unlink(missing_ok=True)
            fsync_folder(self.folder)

    def retry(self, names: Collection[str] | None) -> Iterator[EntryResult]:
        """Send the rows of all entries or these back to ClickHouse; yield each when that is durable."""
        with self._alone():
            for leftover in self._retry.glob(".*.tmp"):  # of a command that was killed
                leftover.unlink(missing_ok=True)
            group: list[str] = []
            rows: list[tuple[Any, ...]] = []
            size, header = 0, CURRENT
            for entry, problem in self._with_problems(names):
                if entry.damaged and names is None:
                    continue
                try:
                    if problem or entry.damaged:
                        raise ValueError(problem or "damaged bytes can't be retried")
                    own, row = entry.row()
                    own_size = entry.path.stat().st_size
                except (OSError, ValueError) as error:
                    yield EntryResult(entry.path.name, problem or f"can't be retried: {error}")
                    continue
                if group and (own != header or len(group) >= RETRY_ROWS or size + own_size > RETRY_BYTES):
                    yield from self._send_back(group, header, rows)
                    group, rows, size = [], [], 0
                header, size = own, size + own_size
                group.append(entry.path.name)
                rows.append(row)
            if group:
                yield from self._send_back(group, header, rows)

    def _send_back(self, names: list[str], header: Header, rows: list[tuple[Any, ...]]) -> Iterator[EntryResult]:
        origin = header.names.index("id_origin") if "id_origin" in header.names else None
        kinds: dict[bool, list[tuple[Any, ...]]] = {False: [], True: []}
        for row in rows:
            kinds[origin is not None and row[origin] == BY_CLIENT].append(row)
        encoded = [encode_frame(encode_header(header), 0)]
        for with_ids, some in kinds.items():
            if some:
                encoded.append(encode_frame(encode_rows(some, header.types).payload, len(some), with_ids=with_ids))
        content = msgspec.msgpack.encode((names, FILE_MAGIC + b"".join(encoded)))
        name = new_name(time.time_ns() // 1_000_000)
        replace_durably(self._retry / f"{name}.{len(rows)}.retry", content)
        delete_entries(self.folder, names)
        yield from (EntryResult(name) for name in names)

    def _with_problems(self, names: Collection[str] | None) -> list[tuple[Entry, str | None]]:
        """Step 1: the entries, each with the reason why it must be left alone, if any."""
        entries = self.entries(names)
        if self._retry.is_dir():  # a segment that came from there must not come back once its entries are touched
            fsync_folder(self._retry)
        # Open segments become sealed, and segments move to workers with lower numbers (see rebalance), never the other
        # way: in this order we miss none.
        busy = set()
        for number in worker_folders(self._data):
            spool = spool_of(self._data, number)
            busy |= {path.name.split(".")[0] for suffix in ("open", "sealed") for path in spool.glob(f"*.{suffix}")}
            if spool.is_dir():
                fsync_folder(spool)
        problem = "its segment is still in the spool: wait until the service has inserted the segment's other rows"
        return [(entry, problem if entry.segment in busy else None) for entry in entries]

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
        return read_returning(path)[0]
    except (FileNotFoundError, msgspec.MsgspecError):  # taken meanwhile; or damaged, which the service logs
        return []
