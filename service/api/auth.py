"""Who is asking: the bearer token, before anything else of a request is looked at."""

from collections.abc import Mapping

from aiohttp import web

from service.errors import Forbidden, Unauthorized
from service.tokens import Scope, Token, digest

TOKENS: web.AppKey[Mapping[bytes, Token]] = web.AppKey("tokens", Mapping)
#: A longer header is refused unhashed.
HEADER_MAX_LENGTH = 512


def authorize(request: web.Request, scope: Scope, tokens: Mapping[bytes, Token] | None = None) -> Token:
    """The token of the request, if it has the scope. Raises Unauthorized or Forbidden. ``tokens``: only these count.

    The look-up is by hash: how long it takes says nothing about how much of a token was right.
    """
    values = request.headers.getall("Authorization", ())
    if len(values) != 1:
        raise Unauthorized("Not authenticated" if not values else "More than one Authorization header")
    return token_with_scope(request.app[TOKENS] if tokens is None else tokens, values[0], scope)


def token_with_scope(tokens: Mapping[bytes, Token], header: str, scope: Scope) -> Token:
    """The token that an Authorization header names. Raises Unauthorized or Forbidden."""
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() != "bearer" or len(header) > HEADER_MAX_LENGTH:
        raise Unauthorized
    token = tokens.get(digest(credentials.strip()))
    if token is None:
        raise Unauthorized("The token is not known")
    if scope not in token.scopes:
        raise Forbidden(f"The token lacks the scope {scope}")
    return token
