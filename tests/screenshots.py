"""The pictures of the dashboard in ``docs/images``: ``make screenshots``."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.support import wait_until
from tests.support.browser import open_browser
from tests.support.clickhouse import ClickHouseServer
from tests.support.dashboard import DESKTOP, PHONE, open_page, post_a_day, sign_in
from tests.support.service import PIPELINE, Service

FOLDER = Path(__file__).parents[1] / "docs" / "images"
PICTURES = {
    "desktop": {"viewport": DESKTOP},
    "dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "phone": {"viewport": PHONE},
}


def main() -> None:
    """Run the command."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="screenshots-") as name, open_browser() as browser:
        server = ClickHouseServer(Path(name) / "clickhouse").start()
        service = Service(Path(name) / "service", ANALYTICS_CLICKHOUSE_DSN=server.dsn("analytics")).start()
        post_a_day(service, datetime.now(UTC))
        wait_until(lambda: service.get(PIPELINE).json["events_pending"] == 0)
        for picture, options in PICTURES.items():
            with open_page(browser, service, **options) as page:
                sign_in(page)
                path = FOLDER / f"dashboard-{picture}.png"
                page.screenshot(path=path)
                print(f"{path}: {path.stat().st_size} bytes")
        service.stop()
        server.stop()


if __name__ == "__main__":
    main()
