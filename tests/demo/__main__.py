"""``make demo``: the service with ClickHouse embedded, and the page, each at an address that it prints."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

from tests.demo import Demo

ANALYTICS = Path(sys.executable).with_name("analytics")
SERVICE = "http://127.0.0.1:8080"


def main() -> int:
    """Run both until Ctrl-C."""
    write, read = secrets.token_hex(12), secrets.token_hex(12)
    url = f"{SERVICE}/api/v1/analytics"
    options = {"url": url, "token": write, "clientId": "trading-desk", "errors": True, "vitals": True}
    demo = Demo({"tracker": options, "readToken": read}, 8000)
    environment = os.environ | {
        "ANALYTICS_PORT": "8080",
        "ANALYTICS_DATA_DIR": "data/demo",
        "ANALYTICS_WRITE_TOKENS": write,
        "ANALYTICS_READ_TOKENS": read,
        "ANALYTICS_CORS_ORIGINS": demo.origin,
    }
    print(f"The trading desk is at {demo.origin}", flush=True)
    try:
        return subprocess.run([ANALYTICS, "serve"], env=environment).returncode
    except KeyboardInterrupt:
        return 0
    finally:
        demo.close()


if __name__ == "__main__":
    sys.exit(main())
