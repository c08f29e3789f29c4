"""Sign and verify the tokens with which agents of the older protocol ask for work over HTTP.

They are short-lived, name a monitor and grant nothing at the broker, whose plugin requires a role. Those for the broker
are in :mod:`auth.tokens`; the same key signs both, and neither serves for the other.
"""

import secrets
from datetime import datetime, timedelta
from typing import Any, Final

import jwt

from auth.tokens import NOT_BEFORE_MARGIN, SigningKey
from schema.names import Environment, InvalidName, check_monitor_name

AUDIENCE: Final = "monitor-api"
SCOPE: Final = "monitor:read monitor:data"

LIFETIME: Final = timedelta(hours=1)
"""Longest and usual lifetime."""

SHORTEST: Final = timedelta(minutes=10)
"""Agents renew a token in its last five minutes, and would renew a shorter one before every request."""


def access_lifetime(asked_seconds: int | None) -> timedelta:
    """Return the lifetime for a request of so many seconds, or of none in particular."""
    if asked_seconds is None or asked_seconds <= 0:
        return LIFETIME
    return min(max(timedelta(seconds=min(asked_seconds, 86_400)), SHORTEST), LIFETIME)


def sign_access(
    key: SigningKey, name: str, env: Environment, *, issuer: str, now: datetime, lifetime: timedelta = LIFETIME
) -> str:
    """Return a new token for the monitor ``name``.

    Args:
        issuer: the public URL of the API.
        now: aware.

    Raises:
        InvalidName: ``name`` is not that of a monitor of ``env``.
    """
    issued = int(now.timestamp())
    return key.encode(
        {
            "iss": issuer,
            "aud": AUDIENCE,
            "sub": check_monitor_name(name, env),
            "scope": SCOPE,
            "iat": issued,
            "nbf": issued - int(NOT_BEFORE_MARGIN.total_seconds()),
            "exp": issued + int(lifetime.total_seconds()),
            "jti": secrets.token_urlsafe(12),
        }
    )


def verify_access(key: SigningKey, token: str, env: Environment, *, issuer: str, now: datetime) -> str | None:
    """Return the name of the monitor whose valid token this is; ``None`` if it is none of ours, or has ended.

    Args:
        now: aware.
    """
    required = ["iss", "aud", "sub", "exp", "nbf", "iat"]
    # The time is compared below, with the time of the caller.
    options: Any = {"require": required, "verify_exp": False, "verify_nbf": False, "verify_iat": False}
    try:
        found = jwt.decode(
            token,
            key.verification_text(),
            algorithms=[key.algorithm],
            audience=AUDIENCE,
            issuer=issuer,
            options=options,
        )
        if not float(found["nbf"]) <= now.timestamp() < float(found["exp"]):
            return None
        return check_monitor_name(str(found["sub"]), env)
    except (jwt.InvalidTokenError, InvalidName, TypeError, ValueError):
        return None
