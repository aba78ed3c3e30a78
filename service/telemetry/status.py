"""Whether a part works, since when, and if not, why: for /health and the log."""

import logging
from datetime import UTC, datetime


class Status:
    """The state of one part (``spool`` or ``clickhouse``). It starts as unknown, which counts as not working."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.ok = False
        self.since = datetime.now(UTC)
        self.reason: str | None = "not tried yet"
        self._known = False
        self._logged: str | None = None

    def works(self) -> None:
        """The part works. After a failure, the log gets a line."""
        if not self.ok:
            if self._known:
                _log.info("%s is back after %.1f s", self.part, (datetime.now(UTC) - self.since).total_seconds())
            self._change(ok=True)
        self.reason = self._logged = None

    def fails(self, reason: str, detail: str | None = None) -> None:
        """The part does not work. The log gets a line if the state or the text changes.

        Everybody may see ``reason``; the log gets ``detail`` instead, if given.
        """
        if self.ok or not self._known:
            self._change(ok=False)
        if (detail or reason) != self._logged:
            _log.warning("%s does not work: %s", self.part, detail or reason)
        self.reason, self._logged = reason, detail or reason

    def _change(self, *, ok: bool) -> None:
        self.ok, self._known, self.since = ok, True, datetime.now(UTC)


_log = logging.getLogger(__name__)
