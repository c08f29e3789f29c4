"""Compute the time to renew a token from its claims. Tokens are not verified here."""

import base64
import json
import time
from dataclasses import dataclass
from typing import Final

OPAQUE: Final = 60.0
"""Seconds until the renewal of a token with an unreadable lifetime."""


class TokenUnavailable(Exception):
    """The token source failed; see the cause."""


@dataclass(frozen=True, slots=True)
class Life:
    """Times in a token, in seconds of Unix time, and whose token it is."""

    issued: float
    expires: float
    subject: str


def seconds_to_renewal(token: str) -> float:
    """Return the seconds from now to two thirds of the token's lifetime, at least one.

    They are never more than two thirds of it, since the clock of this host may be behind that of the signer.
    """
    life = life_of(token)
    if life is None:
        return OPAQUE
    whole = (life.expires - life.issued) * 2 / 3
    return max(1.0, min(whole, life.issued + whole - time.time()))


def has_expired(token: str) -> bool:
    """Return whether this token has expired; False if its lifetime is unreadable."""
    life = life_of(token)
    return life is not None and life.expires <= time.time()


def life_of(token: str) -> Life | None:
    """Return the claims about the token's life, unverified; ``None`` if they are unreadable."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return Life(float(claims["iat"]), float(claims["exp"]), str(claims.get("sub", "")))
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError):
        return None
