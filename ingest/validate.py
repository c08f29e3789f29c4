"""Which results are accepted, and why the others are not.

A bad server is no reason to refuse a result: whatever a reply can make an honest agent measure is stored and scored,
however odd. Refused is what no measurement can yield, what has no place in the ledger, and what was not asked for.
Reasons are fixed texts, so that they can be counted.
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
"""Seconds of an offset or a round trip. A server may send any time, and differences of NTP's 64-bit times reach 68
years either way; what is beyond two whole eras was never computed from two of them."""

MAX_ROOT_SECONDS: Final = 2.0**16
"""Seconds of a root delay or a root dispersion, which stay below it: NTP sends both as 16 bits of seconds, unsigned,
and 16 bits of their fraction."""

MAX_SAMPLES: Final = 1_000
"""Samples of one result, far above what an agent can be told to take."""

GRACE: Final = timedelta(seconds=60)
"""How long after the end of an assignment a result may have been measured: the agent learns of it a little later, and
the clocks of agent and ledger differ."""


def impossible(result: Result, arrived: datetime) -> str | None:
    """Why nobody can have measured ``result`` when it arrived at ``arrived``, or None."""
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
    """Why nothing of a monitor with this global status is stored; ``status`` is None for an unknown monitor."""
    match status:
        case None:
            return UNKNOWN_MONITOR
        case "pending":
            return MONITOR_PENDING
        case "deleted":
            return MONITOR_DELETED
    return None


def server_refused(result: Result, server_ip: str | None) -> str | None:
    """Why ``result`` is not about a server of ours; ``server_ip`` is None for an unknown server."""
    if server_ip is None:
        return UNKNOWN_SERVER
    if result.ip != server_ip and not same_address(result.ip, server_ip):
        return OTHER_ADDRESS
    return None


def needs_history(monitor: MonitorStatus, pair: PairStatus) -> bool:
    """Whether the pair is not measured now, so that only what was measured before counts.

    A paused monitor leaves its servers by becoming their candidate; until a review has decided so, it still serves.
    """
    return pair == "paused" or (monitor == "paused" and pair == "candidate")


def was_assigned(result: Result, ended: datetime | None) -> bool:
    """Whether ``result`` was measured before its assignment ended; never when nobody knows when that was.

    Args:
        ended: of a pair that :func:`needs_history`, the time of its last change.
    """
    return ended is not None and result.ts <= ended + GRACE


def same_address(one: str, other: str) -> bool:
    """Whether both texts are the same address, however spelled."""
    try:
        return ip_address(one) == ip_address(other)
    except ValueError:
        return False


def known_id(server_id: int) -> int:
    """``server_id`` if a column can hold it, else 0, which no server has."""
    return server_id if 0 < server_id <= MAX_SERVER_ID else 0
