"""Access tokens: who may post and who may read. Only their hashes are kept.

The tokens come from ``ANALYTICS_WRITE_TOKENS``, ``ANALYTICS_READ_TOKENS`` and the tokens file. The file
gives each a name. A token from the environment is named ``env-`` and the first 8 hex digits of its SHA-256,
so that its name does not depend on the others.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import AfterValidator, BaseModel, ValidationError

from service.errors import StartError
from service.origins import parse_origin
from service.spool.disk import replace_durably

Scope = Literal["write", "read"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class AccessToken(NamedTuple):
    """What a known token may do, and its name, which its events carry in the column ``source``.

    ``origins``: in browsers, only pages of these origins may use it; empty means any.
    """

    name: str
    scopes: frozenset[Scope]
    origins: frozenset[str] = frozenset()


class _Entry(BaseModel):
    name: str
    scopes: list[Scope]
    sha256: str
    origins: list[Annotated[str, AfterValidator(parse_origin)]] = []


class _File(BaseModel):
    tokens: list[_Entry] = []


def digest(token: str) -> bytes:
    """The hash by which we know a token. Tokens are random, so a plain hash is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def from_environment(write: str, read: str) -> dict[bytes, AccessToken]:
    """The tokens of the two variables, by hash; a token in both has both scopes."""
    scopes: dict[bytes, set[Scope]] = {}
    listed: tuple[tuple[Scope, str], ...] = (("write", write), ("read", read))
    for scope, tokens in listed:
        for token in filter(None, map(str.strip, tokens.split(","))):
            scopes.setdefault(digest(token), set()).add(scope)
    return {key: AccessToken(f"env-{key.hex()[:8]}", frozenset(both)) for key, both in scopes.items()}


def from_file(path: Path) -> dict[bytes, AccessToken]:
    """The tokens of the file, by hash. Raises StartError if we can't read it, or other users can."""
    file = _read(path)
    if path.stat().st_mode & 0o077:
        raise StartError(f"the tokens file {path} can be read by other users: chmod 600 {path}")
    try:
        return {
            bytes.fromhex(one.sha256): AccessToken(one.name, frozenset(one.scopes), frozenset(one.origins))
            for one in file.tokens
        }
    except ValueError:
        raise StartError(f"the tokens file {path} is damaged: a sha256 is not hexadecimal") from None


def first() -> dict[Scope, str]:
    """A new token for each scope, not kept anywhere yet."""
    return {scope: _random(_first_name(scope)) for scope in SCOPES}


def known_by(first: Mapping[Scope, str]) -> dict[bytes, AccessToken]:
    """The tokens of ``first``, by hash."""
    return {digest(token): AccessToken(_first_name(scope), frozenset({scope})) for scope, token in first.items()}


def keep(path: Path, first: Mapping[Scope, str]) -> None:
    """Add the hashes of both to the file, or of none. Raises StartError."""
    file = _read(path) if path.exists() else _File()
    for scope, token in first.items():
        file.tokens.append(_Entry(name=_first_name(scope), scopes=[scope], sha256=digest(token).hex()))
    _replace(path, file)


def create(path: Path, name: str, scopes: Iterable[Scope], origins: Iterable[str] = ()) -> str:
    """Make a token, add its hash to the file, and return the token, which can't be recovered. Raises StartError."""
    if not NAME.fullmatch(name):
        raise StartError(
            f"{name!r} is not a valid name for a token: use 1 to 64 letters, digits, dots, dashes or underscores"
        )
    try:
        listed = sorted({parse_origin(one) for one in origins})
    except ValueError as error:
        raise StartError(str(error)) from None
    file = _read(path) if path.exists() else _File()
    if any(one.name == name for one in file.tokens):
        raise StartError(
            f"the tokens file {path} already has a token named {name}: revoke it first, or choose another name"
        )
    token = _random(name)
    file.tokens.append(_Entry(name=name, scopes=sorted(set(scopes)), sha256=digest(token).hex(), origins=listed))
    _replace(path, file)
    return token


def revoke(path: Path, name: str) -> None:
    """Remove the token of that name from the file. Raises StartError if there is none."""
    file = _read(path)
    kept = [one for one in file.tokens if one.name != name]
    if len(kept) == len(file.tokens):
        raise StartError(f"the tokens file {path} has no token named {name}")
    _replace(path, _File(tokens=kept))


def _first_name(scope: Scope) -> str:
    return f"first-{scope}"


def _random(name: str) -> str:
    return f"{name}_{secrets.token_urlsafe(32)}"


def _read(path: Path) -> _File:
    try:
        return _File.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StartError(f"the tokens file {path} can't be read: {error.strerror}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the file"
        raise StartError(f"the tokens file {path} is damaged: {place}: {fault['msg']}") from None


def _replace(path: Path, file: _File) -> None:
    try:
        replace_durably(path, file.model_dump_json(indent=2, exclude_defaults=True).encode() + b"\n")
    except OSError as error:
        raise StartError(f"the tokens file {path} can't be written: {error.strerror}") from None
