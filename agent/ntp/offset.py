"""Offset and round-trip time from the four timestamps of an exchange (RFC 5905, section 8)."""

import msgspec

from agent.ntp.timestamps import Timestamp, difference, to_seconds


class Measurement(msgspec.Struct, frozen=True, gc=False):
    """What the four timestamps say."""

    offset: float
    """Seconds; positive: the server's clock is ahead of ours."""
    rtt: float
    """Seconds on the way, both directions, without the time that the server held the request. Never negative, never
    more than we waited."""
    consistent: bool = True
    """Whether the timestamps can be true: the server held the request for a time not below zero and no longer than we
    waited. Else offset and round-trip time are guesses."""


def measure(t1: Timestamp, t2: Timestamp, t3: Timestamp, t4: Timestamp) -> Measurement | None:
    """The measurement, or None when the server left out one of its timestamps (zero).

    Args:
        t1: our clock when the request left.
        t2: the server's clock when it arrived.
        t3: the server's clock when the reply left.
        t4: our clock when it arrived.
    """
    if t2 == 0 or t3 == 0:
        return None
    there, back = difference(t2, t1), difference(t3, t4)
    elapsed, held = difference(t4, t1), difference(t3, t2)
    return Measurement(
        offset=to_seconds((there + back) / 2),
        rtt=to_seconds(min(max(0, elapsed - held), max(0, elapsed))),
        consistent=0 <= held <= elapsed,
    )
