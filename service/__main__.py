"""``python -m service`` is the ``analytics`` command."""

from service.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
