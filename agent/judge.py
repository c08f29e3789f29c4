"""Judges what was measured. A bad reply is data with an error beside it, so that its numbers are not lost."""

from typing import Final

from agent.packet import Reply, kiss_code

MAX_STRATUM: Final = 10
"""A server further from its reference than this is not one that the pool hands out."""


def judge(reply: Reply) -> str | None:
    """What is wrong with a reply that came from the server we asked: a kiss code, ``bad stratum N``, or None."""
    if code := kiss_code(reply):
        return code
    if not 1 <= reply.stratum <= MAX_STRATUM:
        return f"bad stratum {reply.stratum}"
    return None


def drops_offset(error: str | None) -> bool:
    """Whether the timestamps beside ``error`` mean nothing: a server that limits our rate does not tell the time."""
    return error == "RATE"
