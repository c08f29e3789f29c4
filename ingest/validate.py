"""Validate results, and give the reason for each rejection.

A bad server is no reason to reject a result: every value that a correct agent can measure from a server's replies is
stored and scored. Results are rejected if no measurement can produce them, if the ledger cannot hold them, or if they
were not assigned. Reasons are fixed texts, so that they can be counted.
"""

from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final

from schema.limits import CLOCK_AHEAD, SPOOL_AGE
from schema.messages import MonitorStatus, PairStatus, Result

UNKNOWN_MONITOR: Final = "unknown monitor"
MONITOR_PENDING: Final = "monitor is pending"
MONITOR_DELETED: Final = "monitor is deleted"
UNKNOWN_SERVER: Final = "unknown server"
OTHER_ADDRESS: Final = "server has another address"
NO_PAIR: Final = "monitor does not belong to the server"
NOT_ASSIGNED: Final = "measured after the assignment ended"
TOO_SOON: Final = "too soon"
TOO_OLD: Final = "too old"
IN_THE_FUTURE: Final = "in the future"
IMPOSSIBLE_OFFSET: Final = "impossible offset"
IMPOSSIBLE_RTT: Final = "impossible rtt"
IMPOSSIBLE_STRATUM: Final = "impossible stratum"
IMPOSSIBLE_LEAP: Final = "impossible leap"
IMPOSSIBLE_SAMPLES: Final = "impossible number of samples"
IMPOSSIBLE_ROOT_DELAY: Final = "impossible root delay"
IMPOSSIBLE_ROOT_DISPERSION: Final = "impossible root dispersion"

MAX_SERVER_ID: Final = 2**32 - 1
"""``servers.id`` is an ``int unsigned``."""

MAX_SECONDS: Final = 2.0**33
"""Maximum seconds of an offset or a round trip. A server may send any time, and differences of NTP's 64-bit timestamps
reach 68 years in both directions; no computation with them exceeds two eras."""

MAX_ROOT_SECONDS: Final = 2.0**16
"""Exclusive maximum of root delay and root dispersion in seconds: NTP encodes both as 16 bits of unsigned seconds and
16 bits of fraction."""

MAX_SAMPLES: Final = 1_000
"""Maximum samples of one result, far above the maximum that can be configured."""

GRACE: Final = timedelta(seconds=60)
"""Tolerance after the end of an assignment: the agent receives the removal a little later, and the clocks of agent and
ledger differ."""


def impossible(result: Result, arrived: datetime) -> str | None:
    """Return why ``result``, which arrived at ``arrived``, cannot be a measurement, or None."""
    if result.ts > arrived + CLOCK_AHEAD:
        return IN_THE_FUTURE
    if result.ts < arrived - SPOOL_AGE:
        return TOO_OLD
    # Written so that NaN fails.
    if result.offset is not None and not abs(result.offset) <= MAX_SECONDS:
        return IMPOSSIBLE_OFFSET
    if result.rtt is not None and not 0 <= result.rtt <= MAX_SECONDS:
        return IMPOSSIBLE_RTT
    if result.stratum is not None and not 0 <= result.stratum <= 255:
        return IMPOSSIBLE_STRATUM
    if result.leap is not None and not 0 <= result.leap <= 3:
        return IMPOSSIBLE_LEAP
    if not 0 <= result.received <= result.sent <= MAX_SAMPLES:
        return IMPOSSIBLE_SAMPLES
    if result.root_delay is not None and not 0 <= result.root_delay < MAX_ROOT_SECONDS:
        return IMPOSSIBLE_ROOT_DELAY
    if result.root_dispersion is not None and not 0 <= result.root_dispersion < MAX_ROOT_SECONDS:
        return IMPOSSIBLE_ROOT_DISPERSION
    return None


def monitor_refused(status: MonitorStatus | None) -> str | None:
    """Return why no result of a monitor with this global status is stored; ``status`` is None if it is unknown."""
    match status:
        case None:
            return UNKNOWN_MONITOR
        case "pending":
            return MONITOR_PENDING
        case "deleted":
            return MONITOR_DELETED
    return None


def server_refused(result: Result, server_ip: str | None) -> str | None:
    """Return why ``result`` does not match a known server; ``server_ip`` is None for an unknown server."""
    if server_ip is None:
        return UNKNOWN_SERVER
    if result.ip != server_ip and not same_address(result.ip, server_ip):
        return OTHER_ADDRESS
    return None


def needs_history(monitor: MonitorStatus, pair: PairStatus) -> bool:
    """Return whether the pair is not measured now, so that only results measured before its last change count.

    A paused monitor leaves its servers by becoming a candidate; until that review, its results still count.
    """
    return pair == "paused" or (monitor == "paused" and pair == "candidate")


def was_assigned(result: Result, ended: datetime | None) -> bool:
    """Return whether ``result`` was measured before its assignment ended; False if that time is unknown.

    Args:
        ended: time of the last change of a pair that :func:`needs_history`.
    """
    return ended is not None and result.ts <= ended + GRACE


def same_address(one: str, other: str) -> bool:
    """Return whether both texts are the same address in any spelling."""
    try:
        return ip_address(one) == ip_address(other)
    except ValueError:
        return False


def known_id(server_id: int) -> int:
    """Return ``server_id`` if the column can hold it, else 0, which no server has."""
    return server_id if 0 < server_id <= MAX_SERVER_ID else 0
