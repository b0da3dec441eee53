"""Access tokens: JWTs that are signed with HS256."""

from datetime import UTC, datetime, timedelta

import jwt
from cachetools import LRUCache

from app.errors import Unauthenticated
from app.infra.security.settings import AuthSettings
from app.infra.validation.fields import MAX_ID

ALGORITHM = "HS256"
TOKEN_TYPE = "access"
REQUIRED_CLAIMS = ["aud", "exp", "iat", "iss", "sub", "typ"]
MAX_TOKEN_LENGTH = 1024
CLOCK_LEEWAY_SECONDS = 10  # clock difference of instances; `exp` is checked without leeway
MAX_CACHED_TOKENS = 10_000


class AccessTokens:
    """Issues and verifies access tokens. Verified tokens are cached until they expire."""

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._key = settings.secret.get_secret_value()
        self._verified: LRUCache[str, tuple[int, float]] = LRUCache(MAX_CACHED_TOKENS)

    def issue(self, user_id: int) -> str:
        """Return a token for this user that is valid for `access_token_seconds`."""
        now = datetime.now(UTC)
        claims = {
            "sub": str(user_id),
            "typ": TOKEN_TYPE,
            "iss": self._settings.issuer,
            "aud": self._settings.audience,
            "iat": now,
            "exp": now + timedelta(seconds=self._settings.access_token_seconds),
        }
        return jwt.encode(claims, self._key, ALGORITHM)

    def verify(self, token: str) -> int:
        """Return the user id, or raise `Unauthenticated`."""
        user_id, expires_at = self._verified.get(token) or self._verify(token)
        if expires_at <= datetime.now(UTC).timestamp():
            raise Unauthenticated("The access token has expired.")
        self._verified[token] = user_id, expires_at
        return user_id

    def _verify(self, token: str) -> tuple[int, float]:
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
            user_id = int(claims["sub"])
            if claims["typ"] != TOKEN_TYPE or not 1 <= user_id <= MAX_ID:
                raise ValueError("claims")
            return user_id, float(claims["exp"])
        except (jwt.InvalidTokenError, ValueError):
            raise Unauthenticated("The access token is not valid.") from None
