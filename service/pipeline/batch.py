"""A batch: the rows of a segment that are inserted together, and how far that has come.

Rows whose ids clients made are a batch of their own: see ``flusher``. The rows of a segment are numbered: those without
such ids come first, and each kind keeps the order of the file. A range of numbers gives its INSERT its token:
``<segment's name>-<start>-<stop>``, or the segment's name alone for all rows. The same range always means the same rows
and the same token, in this process and in any later one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schemas.payload import EncodedRows, Rows, by_kind, read_rows
from schemas.rows import CURRENT
from service.spool.data_dir import spool_of, worker_folders
from service.spool.segment import NAME_FORM, Segment
from service.spool.spool import Spool

Range = tuple[int, int]
#: Seconds after which an INSERT without an answer has ended in ClickHouse: as long as we let it run, and some more.
RUNS_AT_MOST = 65.0
_TOKEN = re.compile(NAME_FORM + r"(?:-(?P<start>\d+)-(?P<stop>\d+))?")


@dataclass(eq=False)
class Batch:
    """The rows of one kind in a segment, or all rows of a segment that mixes the kinds."""

    segment: Segment
    with_ids: bool
    #: Its rows, or None if they are on disk only.
    parts: Sequence[EncodedRows] | None = None
    #: Whether ClickHouse may have some of its rows, from an earlier try or an earlier process.
    sent: bool = True
    #: The ranges still to be inserted, in reverse order; None before the first try.
    todo: list[Range] | None = None
    #: The ranges that ClickHouse has rejected as a whole.
    cut: set[Range] = field(default_factory=set)
    #: Until when, on the monotonic clock, a try without an answer may still run in ClickHouse.
    running_until: float = 0.0
    #: Whether the table has rows whose ids are not among the known ones, because a view failed.
    ids_missed: bool = False
    tries: int = 0
    #: When the next try is due, on the monotonic clock.
    due: float = 0.0
    #: How many of its rows could be read, went to the quarantine, and were repeats.
    read: int = 0
    quarantined: int = 0
    repeats: int = 0

    @property
    def start(self) -> int:
        """The index of its first row in the segment."""
        return self.segment.rows - self.segment.ids if self.with_ids and self.segment.ids else 0

    @property
    def rows(self) -> int:
        """How many rows it has, according to the segment's file name."""
        if self.segment.ids is None:
            return self.segment.rows
        return self.segment.ids if self.with_ids else self.segment.rows - self.segment.ids

    def token(self, start: int, stop: int) -> str:
        """The deduplication token of the INSERT of a range of its rows."""
        whole = self.rows == self.segment.rows and (start, stop) == (0, self.read)
        return self.segment.name if whole else f"{self.segment.name}-{start}-{stop}"

    def range_of(self, token: str) -> Range:
        """The range of an INSERT of this segment."""
        match = _TOKEN.fullmatch(token)
        assert match  # noqa: S101  # we made it
        return (int(match["start"]), int(match["stop"])) if match["start"] else (0, self.read)


def batches_of(segment: Segment, parts: Sequence[EncodedRows] | None, *, sent: bool) -> list[Batch]:
    """The batches of a segment: one for each kind of its rows."""
    kinds = {False: segment.ids != segment.rows, True: segment.ids != 0}
    if segment.ids is None:
        kinds[False] = False  # the kinds are found out when it is inserted
    memory = dict(zip((False, True), by_kind(parts), strict=True)) if parts is not None else {}
    return [
        Batch(segment, with_ids, memory.get(with_ids), sent, cut=set(segment.splits))
        for with_ids, there in kinds.items()
        if there
    ]


def read_batch(batch: Batch, spool: Spool) -> Rows:
    """The rows of a batch from its segment's file. Raises OSError, or msgspec.DecodeError if they are damaged."""
    contents = spool.read(batch.segment)
    parts = contents.parts if batch.segment.ids is None else by_kind(contents.parts)[batch.with_ids]
    return read_rows(contents.header, parts, CURRENT)


def find_batch(data: Path, token: str) -> tuple[Batch, int, Rows] | None:
    """The batch of an INSERT of rows with ids, the index of its first row and its rows; None if its segment is gone.

    Looks into the spools of all workers. Raises OSError or msgspec.MsgspecError.
    """
    match = _TOKEN.fullmatch(token)
    if not match:
        return None
    for number in worker_folders(data):
        spool = Spool(spool_of(data, number), data / "quarantine", b"")
        if segment := spool.find(match["name"]):
            batch = Batch(segment, with_ids=True)
            rows = read_batch(batch, spool)
            batch.read = len(rows)
            start, stop = batch.range_of(token)
            return batch, start, rows.slice(start - batch.start, stop - batch.start)
    return None
