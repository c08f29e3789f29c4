"""Decide which host asks, by its API key."""

from dataclasses import dataclass
from datetime import datetime

from api.hosts import Host, host_of
from api.requests import Asked
from api.services import Services
from auth.api_key_store import authenticate
from auth.api_keys import Audience, KeyText, parse_key
from runtime.db.engine import reading
from runtime.http.answers import Declined


@dataclass(frozen=True, slots=True)
class Identified:
    """A host that showed a valid API key."""

    key_id: int
    key: KeyText
    host: Host


def monitors_of_key(services: Services, asked: Asked, now: datetime) -> tuple[int, ...]:
    """Return the monitors of the valid API key in a request; none without a key, or with one that is not valid."""
    shown = asked.bearer()
    found = None if shown is None else authenticate(services.engine, services.peppers, shown, now)
    return found.monitor_ids if found is not None and found.audience is Audience.MONITOR else ()


def identify(services: Services, asked: Asked, now: datetime) -> Identified:
    """Return the host that asks.

    Raises:
        Declined: with 401, if the key is missing, wrong, replaced or revoked, and in no other case: agents give up
            their key then.
    """
    shown = asked.bearer()
    text = None if shown is None else parse_key(shown)
    found = None if text is None else authenticate(services.engine, services.peppers, text.clear, now)
    if text is None or found is None or found.audience is not Audience.MONITOR:
        services.metrics.key_refused()
        raise Declined(
            401,
            "key",
            "This API key is not valid: run 'ntppool-agent setup' for a new one.",
            {"WWW-Authenticate": "Bearer"},
        )
    with reading(services.engine) as connection:
        host = host_of(connection, found.monitor_ids)
    if host is None:
        raise Declined(403, "no_monitor", "This API key belongs to no monitor: run 'ntppool-agent setup' again.")
    return Identified(found.id, text, host)


def require_may_connect(host: Host) -> None:
    """Check that the host may log in to the broker.

    Raises:
        Declined: with 403, in words.
    """
    if host.may_connect:
        return
    if host.is_deleted:
        raise Declined(
            403, "deleted", f"The monitor {host.name} is deleted. Run 'ntppool-agent setup' to register this host anew."
        )
    raise Declined(
        403,
        "pending",
        f"The monitor {host.name} waits for its approval by the pool. The agent asks again by itself.",
    )


def require_not_deleted(host: Host) -> None:
    """Check that the host still has a monitor.

    Raises:
        Declined: with 403, in words.
    """
    if host.is_deleted:
        require_may_connect(host)
