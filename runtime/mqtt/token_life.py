"""When a token is to be renewed. Nothing is signed or checked here; only read how long ours is good for."""

import base64
import json
import time
from typing import Final

OPAQUE: Final = 60.0
"""Seconds until a token is to be renewed whose lifetime cannot be read."""


class TokenUnavailable(Exception):
    """The token source failed; the cause says why."""


def seconds_to_renewal(token: str) -> float:
    """Two thirds of the token's lifetime from its issue, counted from now, at least a second."""
    life = _life(token)
    if life is None:
        return OPAQUE
    issued, expires = life
    return max(1.0, issued + (expires - issued) * 2 / 3 - time.time())


def has_expired(token: str) -> bool:
    """Whether nobody takes this token any more; False when its lifetime cannot be read."""
    life = _life(token)
    return life is not None and life[1] <= time.time()


def _life(token: str) -> tuple[float, float] | None:
    """When the token was issued, and when it expires: seconds of Unix time."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return float(claims["iat"]), float(claims["exp"])
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError):
        return None
