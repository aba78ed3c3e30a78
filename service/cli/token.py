"""``analytics token``: make, list and revoke access tokens; and the tokens that a first start makes."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from service.cli.parsers import GROUP, Commands, add_command
from service.config import Settings, variable
from service.edge import access_tokens
from service.errors import StartError
from service.spool.data_dir import DataDir
from service.spool.disk import replace_durably
from service.telemetry import logs


def add(commands: Commands, settings: Callable[[], Settings]) -> None:
    """Add the command. ``settings`` reads the settings when the command runs."""

    def run(function: Callable[[Path, argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
        return lambda options: function(_file(settings()), options)

    parser = add_command(
        commands,
        "token",
        "make, list and revoke access tokens",
        f"Make, list and revoke the access tokens in the file {variable('tokens_file')}.\n"
        "A running service takes a change after a restart.",
        "analytics token new --name web --scope write",
    )
    actions = parser.add_subparsers(**GROUP)
    _add_new(actions).set_defaults(run=run(_new))
    listing = add_command(
        actions,
        "list",
        "names, scopes and origins of the tokens in the file",
        "A line for each access token in the file: its name, its scopes, its origins.",
        "analytics token list",
    )
    listing.set_defaults(run=run(_list))
    revoke = add_command(
        actions,
        "revoke",
        "take a token out of the file; a running service needs a restart",
        "Take an access token out of the file. A running service refuses it after a restart.",
        "analytics token revoke --name web",
    )
    revoke.add_argument("--name", required=True, help="as `analytics token list` shows it")
    revoke.set_defaults(run=run(_revoke))


def _add_new(actions: Commands) -> argparse.ArgumentParser:
    new = add_command(
        actions,
        "new",
        "make a token and show it once; a running service needs a restart",
        "Make an access token and show it once: the file keeps only its hash.\n"
        "A running service takes it after a restart.",
        "analytics token new --name shop --scope write --origin https://shop.example",
    )
    new.add_argument("--name", required=True, help="who will use it; the column source of its events has this name")
    new.add_argument(
        "--scope",
        required=True,
        action="append",
        choices=access_tokens.SCOPES,
        help="write posts events, read reads stats",
    )
    new.add_argument(
        "--origin",
        action="append",
        default=[],
        help="in browsers, only pages of this origin may use it; may be repeated",
    )
    return new


def _file(settings: Settings) -> Path:
    return settings.tokens_file or settings.data_dir.absolute() / "tokens.json"


def _new(path: Path, options: argparse.Namespace) -> None:
    print(access_tokens.create(path, options.name, options.scope, options.origin))
    print(f"Shown only now: {path} keeps its hash. A running service takes it after a restart.", file=sys.stderr)


def _list(path: Path, options: argparse.Namespace) -> None:
    for token in access_tokens.from_file(path).values():
        print(*(token.name, ",".join(sorted(token.scopes)), *sorted(token.origins)), sep="\t")


def _revoke(path: Path, options: argparse.Namespace) -> None:
    access_tokens.revoke(path, options.name)
    print("Revoked; a running service refuses it after a restart.", file=sys.stderr)


# -- of a first start ---------------------------------------------------------------------------


Known = Mapping[bytes, access_tokens.AccessToken]
First = Mapping[access_tokens.Scope, str]


def known_or_first(settings: Settings, data: DataDir) -> tuple[Known, First]:
    """The known tokens. If there are none, also new ones, for ``hand_over`` once the service takes events."""
    known = access_tokens.from_environment(
        settings.write_tokens.get_secret_value(), settings.read_tokens.get_secret_value()
    )
    path = settings.tokens_file or data.tokens
    if settings.tokens_file or path.exists():
        known |= access_tokens.from_file(path)
    if known:
        return known, {}
    first = access_tokens.first()
    return access_tokens.known_by(first), first


def hand_over(first: First, settings: Settings, data: DataDir) -> None:
    """Show the first access tokens, then keep their hashes. If that fails, the next start makes others."""
    if os.isatty(1):
        for scope, token in first.items():
            logs.say(f"{scope} token, shown only now: {token}")
    else:  # the output may be collected
        text = "".join(f"{scope} {token}\n" for scope, token in first.items())
        try:
            replace_durably(data.first_tokens, text.encode())
        except OSError as error:
            raise StartError(f"{data.first_tokens} can't be written ({error.strerror}): mend the disk") from None
        where = f"{data.first_tokens}, which nobody else can read"
        logs.say(f"the first access tokens are in {where}: take them, and delete the file")
    access_tokens.keep(settings.tokens_file or data.tokens, first)
