"""How many events ClickHouse has confirmed since the data folder was made, and when it last did.

A count for people, kept in one small file. It is not a ledger: nothing decides by it what to insert.
It is written before the segment is deleted and remembers that segment's token, so that a crash in
between does not count the segment twice.
"""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path


class Totals:
    """``flushed`` and ``last_flush``, kept across restarts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""
        self.flushed = 0
        self.last_flush: datetime | None = None
        try:
            saved = json.loads(path.read_bytes())
            self.flushed, self._token = int(saved["events_flushed_total"]), str(saved["last_token"])
            self.last_flush = datetime.fromisoformat(saved["last_flush"]).astimezone(UTC)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s can't be read, so the count of flushed events starts anew: %r", path, error)

    def add(self, token: str, rows: int, time: datetime) -> None:
        """Count the rows of a segment, once."""
        if token == self._token:
            return
        self.flushed += rows
        self._token, self.last_flush = token, time
        saved = {"events_flushed_total": self.flushed, "last_flush": time.isoformat(), "last_token": token}
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(saved))
            temporary.rename(self._path)
        except OSError as error:  # a full disk must not stop the flusher, which is what frees it
            _log.warning("%s can't be written: %s", self._path, error)


_log = logging.getLogger(__name__)
