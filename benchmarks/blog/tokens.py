"""Verifies the access tokens of the service with PyJWT."""

import jwt

from benchmarks.blog.settings import Settings


class InvalidToken(Exception):
    """The request has no access token, or a wrong one."""


def verified_user_id(authorization: str | None, settings: Settings) -> tuple[int, int]:
    """Return the user of the token, and the version of the credentials that it was issued for."""
    if authorization is None or not authorization.startswith("Bearer "):
        raise InvalidToken
    try:
        claims = jwt.decode(
            authorization.removeprefix("Bearer "),
            settings.auth_secret,
            algorithms=["HS256"],
            issuer=settings.auth_issuer,
            audience=settings.auth_audience,
            options={"require": ["aud", "exp", "iat", "iss", "sub", "typ"]},
        )
        return int(claims["sub"]), int(claims["credential_version"])
    except (jwt.InvalidTokenError, KeyError, ValueError) as error:
        raise InvalidToken from error
