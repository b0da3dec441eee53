"""Access tokens: JWTs that are signed with HS256."""

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

import jwt

from app.errors import Unauthenticated
from app.infra.security.settings import AuthSettings
from app.infra.validation.fields import MAX_ID

ALGORITHM = "HS256"
TOKEN_TYPE = "access"
REQUIRED_CLAIMS = ["aud", "exp", "iat", "iss", "sub", "typ"]
VERSION_CLAIM = "credential_version"
MAX_TOKEN_LENGTH = 1024
CLOCK_LEEWAY_SECONDS = 10  # clock difference of instances; `exp` is checked without leeway
MAX_CACHED_TOKENS = 10_000


class AccessToken(NamedTuple):
    """What a valid token says.

    `credential_version` is that of the account when the token was issued. The account has a newer
    one if the token was revoked. It is None in a token of a release that did not write it.
    """

    user_id: int
    credential_version: int | None
    expires_at: float


class AccessTokens:
    """Issues and verifies access tokens. Verified tokens are cached until they expire."""

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._key = settings.secret.get_secret_value()
        self._verified = lru_cache(MAX_CACHED_TOKENS)(self._verify)

    def issue(self, user_id: int, credential_version: int) -> str:
        """Return a token for this user that is valid for `access_token_seconds`."""
        now = datetime.now(UTC)
        claims = {
            "sub": str(user_id),
            "typ": TOKEN_TYPE,
            VERSION_CLAIM: credential_version,
            "iss": self._settings.issuer,
            "aud": self._settings.audience,
            "iat": now,
            "exp": now + timedelta(seconds=self._settings.access_token_seconds),
        }
        return jwt.encode(claims, self._key, ALGORITHM)

    def verify(self, token: str) -> AccessToken:
        """Return what the token says, or raise `Unauthenticated`. It may have been revoked."""
        verified = self._verified(token)
        if verified.expires_at <= time.time():
            raise Unauthenticated("The access token has expired.")
        return verified

    def _verify(self, token: str) -> AccessToken:
        try:
            if len(token) > MAX_TOKEN_LENGTH:
                raise ValueError("too long")
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                issuer=self._settings.issuer,
                audience=self._settings.audience,
                leeway=CLOCK_LEEWAY_SECONDS,
                options={"require": REQUIRED_CLAIMS},
            )
            user_id, version = int(claims["sub"]), claims.get(VERSION_CLAIM)
            is_version = version is None or type(version) is int
            if claims["typ"] != TOKEN_TYPE or not 1 <= user_id <= MAX_ID or not is_version:
                raise ValueError("claims")
            return AccessToken(user_id, version, float(claims["exp"]))
        except (jwt.InvalidTokenError, ValueError):
            raise Unauthenticated("The access token is not valid.") from None
