"""Who is asking: the bearer token, checked before anything else of a request."""

import base64
import binascii
from collections.abc import Iterable, Mapping

from aiohttp import web

from service.edge.access_tokens import AccessToken, Scope, digest
from service.edge.context import CONTEXT
from service.errors import Forbidden, Unauthorized

#: A longer header is refused unhashed.
HEADER_MAX_LENGTH = 512


def authorize(request: web.Request, scope: Scope, tokens: Mapping[bytes, AccessToken] | None = None) -> AccessToken:
    """The token of the request, if it has the scope. Raises Unauthorized, Forbidden. ``tokens``: only these are valid.

    The look-up is by hash: its duration does not show how much of a token was right.
    """
    values = request.headers.getall("Authorization", ())
    if len(values) != 1:
        raise Unauthorized("Not authenticated" if not values else "More than one Authorization header")
    token = token_with_scope(request.app[CONTEXT].tokens if tokens is None else tokens, values[0], scope)
    check_origin(token, request.headers.getall("Origin", ()))
    return token


def authorize_by_address(request: web.Request) -> AccessToken:
    """The token in the query string, for browsers that can't set a header. Raises Unauthorized or Forbidden.

    Everybody who sees the page can see the token, so it may only post events.
    """
    given = request.query.getall("token", ())
    if len(given) != 1:
        raise Unauthorized("The address must have one token")
    token = request.app[CONTEXT].tokens.get(digest(given[0]))
    if token is None:
        raise Unauthorized("The token is not known")
    if token.scopes != {"write"}:
        raise Forbidden("A token in an address may have no scope but write")
    origins = request.headers.getall("Origin", ())
    if token.origins and not origins:
        raise Forbidden("The token is only for pages of its origins, and the request names none")
    check_origin(token, origins)
    return token


def name_of(request: web.Request) -> str | None:
    """The name of the request's token if it is known, whatever its scopes."""
    header = request.headers.get("Authorization")
    scheme, _, credentials = header.partition(" ") if header else ("bearer", "", request.query.get("token", ""))
    if scheme.lower() != "bearer" or len(credentials) > HEADER_MAX_LENGTH:
        return None
    token = request.app[CONTEXT].tokens.get(digest(credentials.strip()))
    return token.name if token else None


def password_of(request: web.Request) -> str:
    """The access token of a client that speaks to ClickHouse, wherever it puts its password; empty if there is none."""
    headers = request.headers
    if "X-ClickHouse-Key" in headers:
        given = headers["X-ClickHouse-Key"]
    elif "Authorization" in headers:
        scheme, _, credentials = headers["Authorization"].partition(" ")
        given = _basic(credentials) if scheme.lower() == "basic" else credentials.strip()
    else:
        given = request.query.get("password", "")
    return given if len(given) <= HEADER_MAX_LENGTH else ""


def _basic(credentials: str) -> str:
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def check_origin(token: AccessToken, origins: Iterable[str]) -> None:
    """Raise Forbidden if pages of these origins may not use the token. Only browsers send an origin."""
    if token.origins and not token.origins.issuperset(origins):
        raise Forbidden("The token is not for pages of this origin")


def token_with_scope(tokens: Mapping[bytes, AccessToken], header: str, scope: Scope) -> AccessToken:
    """The token of an Authorization header. Raises Unauthorized or Forbidden."""
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() != "bearer" or len(header) > HEADER_MAX_LENGTH:
        raise Unauthorized
    token = tokens.get(digest(credentials.strip()))
    if token is None:
        raise Unauthorized("The token is not known")
    if scope not in token.scopes:
        raise Forbidden(f"The token lacks the scope {scope}")
    return token
