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
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        issued, expires = float(claims["iat"]), float(claims["exp"])
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError):
        return OPAQUE
    return max(1.0, issued + (expires - issued) * 2 / 3 - time.time())
