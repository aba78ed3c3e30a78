"""``make demo`` as docs/tracker.md tells it, whatever else runs here; its page is kept open through restarts."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support import wait_until
from tests.support.browser import open_browser
from tests.support.dashboard import sign_in
from tests.support.service import Service

ROOT = Path(__file__).parents[2]
SHOWN = re.compile(r"The trading desk +(http://\S+)\nIts dashboard +(http://\S+), with the access token (\S+)\n")


class RunningDemo:
    """The command in a folder, with its standard input in our hands."""

    def __init__(self, folder: Path) -> None:
        self._output = folder / "output.log"
        self._output.touch()
        self._offset = self._output.stat().st_size
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.demo"],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT), "ANALYTICS_PATH_PREFIX": "/of-another"},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.desk, self.dashboard, self.token = wait_until(self._shown, 60, self.said)

    def said(self) -> str:
        return self._output.read_bytes()[self._offset :].decode()

    def _shown(self) -> tuple[str, ...] | None:
        assert self.process.poll() is None, self.said()
        found = SHOWN.search(self.said())
        return found and found.groups()

    def enter(self, then: str) -> None:
        """Press Enter, and wait for what it says then."""
        count = self.said().count(then)
        assert self.process.stdin
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        wait_until(lambda: self.said().count(then) > count, 60, self.said)

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """What Ctrl-C does: the signal to all processes of the terminal."""
        os.killpg(self.process.pid, number)
        return self.process.wait(40)

    def close(self) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGTERM)
        if self.process.stdin:
            self.process.stdin.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


def shows(page: Page, **counts: str | re.Pattern[str]) -> None:
    for name, count in counts.items():
        expect(page.locator(f"#{name}")).to_have_text(count, timeout=60_000)


def order(page: Page, count: int) -> None:
    for _ in range(count):
        page.get_by_role("button", name="Place order").click()


def tracked(page: Page) -> str:
    """How many events the page has tracked, once it says so."""
    shown = "() => document.getElementById('tracked').textContent == tracker.status().sequence"
    wait_until(lambda: page.evaluate(shown), 30)  # from here: the page's policy forbids it to evaluate text
    return page.locator("#tracked").inner_text()


@pytest.mark.timeout(300)
def test_its_page_kept_open_loses_nothing_while_the_service_and_the_demo_are_stopped_and_started(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("ANALYTICS_WORKERS=2\n")
    page = browser.new_page()
    with closing(RunningDemo(tmp_path)) as demo:
        page.goto(demo.desk.replace("127.0.0.1", "localhost"))
        order(page, 2)
        shows(page, stored=tracked(page), missing="0", waiting="0")
        demo.enter("The service is stopped")
        order(page, 3)
        shows(page, waiting=re.compile("^[1-9]"), stored="–")
        demo.enter("The service is back")
        shows(page, stored=tracked(page), missing="0", waiting="0", dropped="0")
        assert demo.end() == 0
        order(page, 3)
        shows(page, stored="–")
    with closing(RunningDemo(tmp_path)) as again:
        assert (again.desk, again.dashboard, again.token) == (demo.desk, demo.dashboard, demo.token)
        shows(page, stored=tracked(page), missing="0", waiting="0", dropped="0")
        page.goto(again.dashboard)
        sign_in(page, again.token)
        expect(page.locator("#names")).to_contain_text("order_placed")
    assert "Traceback" not in demo.said() + again.said()


@pytest.fixture
def taken_ports() -> Iterator[None]:
    """Ports 8000 and 8080 are taken, by us or by whoever has them."""
    with ExitStack() as held:
        for port in (8000, 8080):
            with closing(socket.socket()) as one:
                free = one.connect_ex(("127.0.0.1", port))
            if free:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


@pytest.mark.timeout(300)
def test_it_runs_beside_a_service_and_where_its_ports_are_taken(
    browser: Browser, make_service: Callable[..., Service], tmp_path: Path, taken_ports: None
) -> None:
    service = make_service("chdb://", ANALYTICS_DATA_DIR=tmp_path / "data").start()  # as `make run`, one folder above
    with closing(RunningDemo(tmp_path)) as demo:
        assert not demo.desk.endswith(":8000")
        assert not demo.dashboard.endswith(":8080/dashboard")
        page = browser.new_page()
        page.goto(demo.desk)
        order(page, 2)
        shows(page, stored=tracked(page), missing="0", waiting="0")
        assert service.post({"event_name": "hello"}).status == 200
        service.wait_for_total(1)
