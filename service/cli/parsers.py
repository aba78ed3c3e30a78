"""How a command is declared: with a description and an example, which its ``--help`` shows."""

import argparse
from typing import Any

#: What ``add_subparsers`` returns, which has no public name.
Commands = Any
GROUP: Any = {"title": "commands", "metavar": "COMMAND", "required": True}


def add_command(commands: Commands, name: str, summary: str, description: str, example: str) -> argparse.ArgumentParser:
    """Add a command to ``commands``. ``summary`` is its line in their list; ``example`` is a whole command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser
