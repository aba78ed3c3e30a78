"""A real Prometheus that scrapes a service and judges the alert rules of ``docs/alerts.yml``."""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.machine import find
from tests.support import wait_until
from tests.support.clickhouse import free_port

RULES = Path(__file__).parents[2] / "docs" / "alerts.yml"
_CONFIG = """
global: {{scrape_interval: {interval}, scrape_timeout: {interval}, evaluation_interval: 200ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: analytics
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


class Prometheus:
    """Scrapes 127.0.0.1:``target`` at an interval from ``start`` to ``stop``. Alerts need not last to fire."""

    def __init__(self, folder: Path, target: int, interval: str = "500ms") -> None:
        self._interval = interval
        self.folder = folder
        self._url = f"http://127.0.0.1:{free_port()}"
        self._target = target
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Prometheus":
        """Start it, and wait until it answers."""
        program = find("prometheus")
        self.folder.mkdir()
        rules, config = self.folder / "rules.yml", self.folder / "prometheus.yml"
        rules.write_text(re.sub(r"^ +for: .*\n", "", RULES.read_text(), flags=re.MULTILINE))
        config.write_text(_CONFIG.format(rules=rules, port=self._target, interval=self._interval))
        with (self.folder / "output.log").open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(program, f"--config.file={config}", f"--storage.tsdb.path={self.folder / 'data'}"),
                    *(f"--web.listen-address={self._url.removeprefix('http://')}", "--log.level=warn"),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, 20, lambda: (self.folder / "output.log").read_text())
        return self

    def stop(self) -> None:
        """End it."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.get("rules")["groups"])
        except OSError:
            return False

    def get(self, what: str, **parameters: str) -> Any:
        """The data that the API answers."""
        with urllib.request.urlopen(f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}") as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[float]:
        """The values of an expression now."""
        return [float(one["value"][1]) for one in self.get("query", query=expression)["result"]]

    def rules(self) -> dict[str, str]:
        """The expression of each alert, by its name."""
        return {rule["name"]: rule["query"] for group in self.get("rules")["groups"] for rule in group["rules"]}

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}
