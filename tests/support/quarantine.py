"""A service on a table with a constraint, and the command ``analytics quarantine``."""

import json
import os
import subprocess
from collections import Counter
from typing import Any

from tests.support import wait_until
from tests.support.clickhouse import query
from tests.support.service import ANALYTICS, Service

POISON = "ALTER TABLE events ADD CONSTRAINT no_poison CHECK NOT startsWith(session_id, 'poison')"
MEND = "ALTER TABLE events DROP CONSTRAINT no_poison"


class Rig:
    """A service on a table that refuses every event whose ``session_id`` begins with poison."""

    def __init__(self, service: Service, dsn: str) -> None:
        self.service = service
        self.dsn = dsn
        self.folder = service.data / "quarantine"
        self.refuse()

    def command(self, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run ``analytics quarantine``. Without bytecode files, so that the n-th rename is one of its own."""
        environment = os.environ | {"ANALYTICS_DATA_DIR": str(self.service.data), "PYTHONDONTWRITEBYTECODE": "1"}
        whole = [*prefix, str(ANALYTICS), "quarantine", *arguments]
        return subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=60)

    def post(self, *sessions: str) -> None:
        """Post a batch; each event has one of these as ``session_id``."""
        events = [{"event_name": f"named-{name}", "session_id": name} for name in sessions]
        assert self.service.post_batch(events).status == 200

    def names(self) -> list[str]:
        """The entries' files."""
        return sorted(path.name for path in self.folder.iterdir())

    def listed(self) -> list[dict[str, Any]]:
        """What ``list --json`` says."""
        return [json.loads(line) for line in self.command("list", "--json").stdout.splitlines()]

    def settle(self, entries: int, seconds: float = 20) -> None:
        """Wait until so many entries are there, nothing is on its way back and the spool is empty."""
        data = self.service.data

        def settled() -> bool:
            # in the order in which rows move
            folders = (data / "retry", *(data / "workers").glob("*/spool"), data / "spool")
            way = [path for folder in folders for path in folder.iterdir() if path.name != "probe"]
            return not way and len(self.names()) == entries

        wait_until(settled, seconds, lambda: f"{self.names()} {self.service.log()[-2000:]}")

    def stored(self) -> Counter[str]:
        """How often each ``session_id`` is in the table."""
        return Counter(name for (name,) in query(self.dsn, "SELECT session_id FROM events"))

    def ids(self) -> dict[str, str]:
        """The id of each ``session_id`` in the table."""
        rows = query(self.dsn, "SELECT session_id, replaceAll(toString(event_id), '-', '') FROM events")
        return dict(rows)

    def refuse(self) -> None:
        """From now on the table refuses poison."""
        query(self.dsn, POISON)

    def mend(self) -> None:
        """From now on the table takes everything."""
        query(self.dsn, MEND)

    def run_again(self) -> None:
        """Start the service if it does not run."""
        if self.service.process and self.service.process.poll() is not None:
            self.service.start()
