"""Whether a part works, since when, and if not, why: what /health tells and the log marks."""

import logging
from datetime import UTC, datetime


class Status:
    """The state of one part (``spool`` or ``clickhouse``). Starts unknown, which counts as not working."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.ok = False
        self.since = datetime.now(UTC)
        self.reason: str | None = "not tried yet"
        self._known = False
        self._logged: str | None = None

    def works(self) -> None:
        """The part works. The first time after a failure gets a line in the log."""
        if not self.ok:
            if self._known:
                _log.info("%s is back after %.1f s", self.part, (datetime.now(UTC) - self.since).total_seconds())
            self._change(ok=True)
        self.reason = self._logged = None

    def fails(self, reason: str, detail: str | None = None) -> None:
        """The part does not work. A change of state or of what is logged gets a line in the log.

        Everybody may see ``reason``; ``detail`` is for the log, in its place.
        """
        if self.ok or not self._known:
            self._change(ok=False)
        if (detail or reason) != self._logged:
            _log.warning("%s does not work: %s", self.part, detail or reason)
        self.reason, self._logged = reason, detail or reason

    def _change(self, *, ok: bool) -> None:
        self.ok, self._known, self.since = ok, True, datetime.now(UTC)


_log = logging.getLogger(__name__)
