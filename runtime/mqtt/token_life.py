"""Compute the time to renew a token from its claims. Tokens are not verified here."""

import base64
import json
import time
from typing import Final

OPAQUE: Final = 60.0
"""Seconds until the renewal of a token with an unreadable lifetime."""


class TokenUnavailable(Exception):
    """The token source failed; see the cause."""


def seconds_to_renewal(token: str) -> float:
    """Return the seconds from now to two thirds of the token's lifetime, at least one."""
    life = _life(token)
    if life is None:
        return OPAQUE
    issued, expires = life
    return max(1.0, issued + (expires - issued) * 2 / 3 - time.time())


def has_expired(token: str) -> bool:
    """Return whether this token has expired; False if its lifetime is unreadable."""
    life = _life(token)
    return life is not None and life[1] <= time.time()


def _life(token: str) -> tuple[float, float] | None:
    """Return the times of issue and expiry in seconds of Unix time."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return float(claims["iat"]), float(claims["exp"])
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError):
        return None
