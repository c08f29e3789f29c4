"""Judges what was measured. A bad reply is data with an error beside it, so that its numbers are not lost."""

from typing import Final

from agent.ntp.packet import Reply, kiss_code

MAX_STRATUM: Final = 10
"""A server further from its reference than this is not one that the pool hands out."""


NOT_SYNCHRONISED: Final = 3
"""The leap indicator of a server that does not know the time itself."""

MAX_ROOT_DISTANCE: Final = 3.0
"""Seconds. No common client follows a server that may be further off: chronyd's limit is 3 s, ntpd's 1.5 s."""


def judge(reply: Reply) -> str | None:
    """What is wrong with a reply that came from the server we asked, or None.

    A kiss code, ``bad stratum N``, ``not synchronised`` or ``root distance N s``.
    """
    if code := kiss_code(reply):
        return code
    if not 1 <= reply.stratum <= MAX_STRATUM:
        return f"bad stratum {reply.stratum}"
    if reply.leap == NOT_SYNCHRONISED:
        return "not synchronised"
    if (distance := root_distance(reply)) > MAX_ROOT_DISTANCE:
        return f"root distance {distance:.1f} s"
    return None


def root_distance(reply: Reply) -> float:
    """Seconds by which the server itself may be wrong (RFC 5905, section 11.2, without the way to us)."""
    return reply.root_delay / 2 + reply.root_dispersion


def drops_offset(error: str | None) -> bool:
    """Whether the timestamps beside ``error`` mean nothing: a server that limits our rate does not tell the time."""
    return error == "RATE"
