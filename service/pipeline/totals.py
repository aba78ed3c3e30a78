"""How many events ClickHouse has confirmed since the data folder was made, and when it last did.

A count for people, in one small file for each worker. It is not a ledger: nothing that is inserted depends on it.
It is written before the segment is deleted, with that segment's name, so that a crash in between does
not count the segment twice, whichever worker has it then.
"""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from service.spool.data_dir import worker_folder, worker_folders
from service.worker import ALONE, Worker

FILE = "flushed.json"


class _Saved(NamedTuple):
    flushed: int = 0
    segment: str = ""
    time: datetime | None = None


class Totals:
    """``flushed`` and ``last_flush`` of a worker, kept across restarts. Worker 0 counts for those that are gone."""

    def __init__(self, data: Path, worker: Worker = ALONE) -> None:
        files = {number: _read(folder / FILE) for number, folder in worker_folders(data).items()}
        own = files.get(worker.number, _Saved())
        left = [one for number, one in files.items() if number >= worker.count and worker.number == 0]
        self._path = worker_folder(data, worker.number) / FILE
        self._own = own.flushed
        self._left = sum(one.flushed for one in left)
        self._last = own.segment
        self._counted = {one.segment for one in files.values()}  # as of the start: later segments were deleted in time
        self.last_flush = max((one.time for one in (own, *left) if one.time), default=None)

    @property
    def flushed(self) -> int:
        """Events that ClickHouse has confirmed."""
        return self._own + self._left

    def add(self, segment: str, rows: int, time: datetime) -> None:
        """Count the rows of a segment, once."""
        if segment == self._last or segment in self._counted:
            return
        self._own += rows
        self._last, self.last_flush = segment, time
        saved = {"events_flushed_total": self._own, "last_flush": time.isoformat(), "last_token": segment}
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(saved))
            temporary.rename(self._path)
        except OSError as error:  # a full disk must not stop the flusher, which frees it
            _log.warning("%s can't be written: %s", self._path, error)


def _read(path: Path) -> _Saved:
    try:
        saved = json.loads(path.read_bytes())
        time = datetime.fromisoformat(saved["last_flush"]).astimezone(UTC)
        return _Saved(int(saved["events_flushed_total"]), str(saved["last_token"]), time)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s can't be read, so the count of flushed events starts anew: %r", path, error)
    return _Saved()


_log = logging.getLogger(__name__)
