"""Is our own clock right? A monitor with a wrong clock blames every server, so it must not probe at all.

The base-check servers are asked like any other; the clock is good when enough of them agree with it. Pure.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from schema.messages import Result

MAX_OFFSET: Final = 0.010
"""Seconds that our clock may differ from a base-check server's."""

VALID_FOR: Final = 180.0
"""Seconds for which a check counts."""

RENEW_AFTER: Final = 150.0
"""Seconds after which a good check is made again: before it ends, so that probing never waits for it."""

RETRY_AFTER: Final = 60.0
"""Seconds after which a failed check is made again."""


ASKED_NOT_BEFORE: Final = 30.0
"""Seconds after the beginning of a check before which another one is not begun only because servers are silent."""


class ClockVerdict(msgspec.Struct, frozen=True):
    """Whether the clock is good, and what the servers said."""

    good: bool
    reason: str
    """For people: each server that failed and why, or how far the others were off."""


def allowed_failures(servers: int) -> int:
    """How many of ``servers`` may fail the check: a minority, none of one or two."""
    return servers - (servers + 2) // 2


def judge_clock(results: Sequence[tuple[str, Result]], refused: Sequence[str] = ()) -> ClockVerdict:
    """The verdict from what each base-check server (named as it is configured) answered.

    Args:
        refused: reasons of entries that could not be asked at all; each counts as a failed server.
    """
    servers = len(results) + len(refused)
    if servers == 0:
        return ClockVerdict(False, "local clock not checked: no base-check servers configured")
    failures = [*refused, *(f"{name} {why}" for name, result in results if (why := failure(result)))]
    if len(failures) > allowed_failures(servers):
        listed = "; ".join(failures)
        return ClockVerdict(False, f"local clock check failed at {len(failures)} of {servers}: {listed}")
    good = [f"{name} {in_ms(result.offset)}" for name, result in results if result.offset is not None]
    return ClockVerdict(True, f"local clock good, {len(failures)} of {servers} failed: {'; '.join(good)}")


def failure(result: Result) -> str | None:
    """Why a base-check server's answer does not vouch for our clock; None when it does."""
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
    """An offset for people."""
    return f"{offset * 1000:+.3f} ms"
