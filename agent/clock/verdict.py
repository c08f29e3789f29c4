"""Judge the local clock. A monitor with a wrong clock would blame every server, so it must not probe at all.

The base-check servers are queried like any other; the clock is good when enough of them agree with it. Pure.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from schema.messages import Result
from schema.names import IpVersion

MAX_OFFSET: Final = 0.010
"""Maximum difference in seconds between our clock and a base-check server's."""

VALID_FOR: Final = 180.0
"""Seconds for which a check is valid."""

RENEW_AFTER: Final = 150.0
"""Seconds after which a good check is repeated, before it expires, so that probing never waits for it."""

RETRY_AFTER: Final = 60.0
"""Seconds after which a failed check is repeated."""


ASKED_NOT_BEFORE: Final = 30.0
"""Minimum seconds from the start of a check to one that is triggered only by silent servers."""


class ClockVerdict(msgspec.Struct, frozen=True):
    """The verdict on the clock, and the servers' answers."""

    good: bool
    reason: str
    """For people: each server that failed and why, or the offsets of the others."""
    offset: float | None = None
    """Median offset of the servers that answered properly, in seconds; positive if their clocks are ahead of ours."""
    asked: bool = True
    """A server was asked. Without, there is no statement about the clock."""


def allowed_failures(servers: int) -> int:
    """Return how many of ``servers`` may fail the check: a minority, none of one or two."""
    return servers - (servers + 2) // 2


def judge_clock(results: Sequence[tuple[str, Result]], refused: Sequence[str] = ()) -> ClockVerdict:
    """Return the verdict from the answers of the base-check servers, which have their configured names.

    Args:
        refused: reasons of entries that could not be queried at all; each counts as a failed server.
    """
    servers = len(results) + len(refused)
    if servers == 0:
        return ClockVerdict(False, "local clock not checked: no base-check servers configured")
    failures = [*refused, *(f"{name} {why}" for name, result in results if (why := failure(result)))]
    offset = _median_offset([result for _, result in results])
    if len(failures) > allowed_failures(servers):
        listed = "; ".join(failures)
        return ClockVerdict(False, f"local clock check failed at {len(failures)} of {servers}: {listed}", offset)
    good = [f"{name} {in_ms(result.offset)}" for name, result in results if result.offset is not None]
    return ClockVerdict(True, f"local clock good, {len(failures)} of {servers} failed: {'; '.join(good)}", offset)


def cannot_send(ipv: IpVersion, error: str | None) -> ClockVerdict:
    """Return the verdict on a host that cannot send any request, for example because it has no IPv6."""
    why = "" if error is None else f": {error.removeprefix('network: ')}"
    return ClockVerdict(False, f"this host cannot send by IP{ipv}{why}", asked=False)


def _median_offset(results: Sequence[Result]) -> float | None:
    """Return the median offset of proper answers, the lower one of two. (The module ``statistics`` takes memory.)"""
    offsets = sorted(r.offset for r in results if r.offset is not None and r.error is None and not r.no_response)
    return offsets[(len(offsets) - 1) // 2] if offsets else None


def failure(result: Result) -> str | None:
    """Return why a base-check server's answer does not confirm our clock; ``None`` when it does."""
    if result.error is not None:
        return result.error
    if result.no_response:
        return "no answer"
    if result.offset is None:
        return "no offset"
    if abs(result.offset) > MAX_OFFSET:
        return f"offset {in_ms(result.offset)}"
    return None


def in_ms(offset: float) -> str:
    """Format an offset for people."""
    return f"{offset * 1000:+.3f} ms"
