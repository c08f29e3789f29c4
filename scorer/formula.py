"""Apply the score formula to one result of a pair: ``score = 0.95 * old + step``, then limit it to the step's maximum.

:func:`step` judges the result, :func:`next_score` applies the formula; :mod:`ingest.plan` calls both for every result
that it stores. The table below is the pool's; its numbers stand here once, so that the public pages can show the rule
that they explain.
A server that always answers well settles at 20, since ``1 / (1 - 0.95) = 20``.
"""

from dataclasses import dataclass
from typing import Final

from schema.messages import Result

DECAY: Final = 0.95
"""What remains of the old score at every result."""

BEST_STEP: Final = 1.0
"""The step of a good result."""

BEST_SCORE: Final = BEST_STEP / (1 - DECAY)
"""Where the score of a perfect server settles."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a result adds to the decayed score, and the most that the score may be afterwards."""

    step: float
    maximum: float | None = None


NO_RESPONSE: Final = Step(-5.0)
RATE_LIMITED: Final = Step(-3.5)
"""Kiss code ``RATE``: we asked too often, which is not all the server's fault."""
UNWANTED: Final = Step(-10.0, -50.0)
"""Kiss codes ``RSTR`` and ``DENY``: the server does not want to be asked, so nobody should be sent there."""
UNSYNCHRONISED: Final = Step(-2.0, 5.0)
"""Stratum 0 without an error, as other agents report it."""
BROKEN: Final = Step(-4.0)
"""Any other error, or an answer without an offset."""
NOT_FOLLOWED: Final = Step(-4.0)
"""It says of itself that its time is not to be trusted: no common client would follow it."""
FAR_OFF: Final = Step(-4.0, -20.0)
TOO_FAR_FROM_REFERENCE: Final = Step(-4.0)
OFF: Final = Step(-2.0)
GOOD: Final = Step(BEST_STEP)

UNSYNCHRONISED_LEAP: Final = 3
"""Leap bits of a server that is not synchronised."""
FARTHEST_ROOT: Final = 3.0
"""Seconds of root delay / 2 + root dispersion up to which clients follow a server."""

FAR_OFF_BEYOND: Final = 3.0
"""Seconds of ``|offset|``."""
OFF_BEYOND: Final = 0.75
"""Seconds of ``|offset|``."""
WORST_STRATUM: Final = 8
"""The stratum from which on a server is too far from its reference."""

COARSE_BEYOND: Final = 0.1
"""Seconds of ``|offset|`` above which the coarse slope applies."""
COARSE_SLOPE: Final = -2.308
"""Per second of ``|offset|``."""
COARSE_BASE: Final = 0.731

FINE_BEYOND: Final = 0.025
"""Seconds of ``|offset|`` up to which a result is good."""
FINE_SLOPE: Final = -6.667
"""Per second of ``|offset|``."""
FINE_BASE: Final = 1.167

NETWORK_ERROR: Final = "network:"
"""How an error begins that kept the reply from us."""


def step(result: Result) -> Step:
    """The step of ``result``: the first line of the table that fits."""
    if result.no_response or (result.error is not None and result.error.startswith(NETWORK_ERROR)):
        return NO_RESPONSE
    if result.stratum == 0 and (special := _of_stratum_zero(result.error)):
        return special
    if result.error or result.offset is None:
        return BROKEN
    if not_followed(result):
        return NOT_FOLLOWED
    return _of_offset(abs(result.offset), result.stratum)


def not_followed(result: Result) -> str | None:
    """Why no common client would follow the server, whatever its offset; as an error text, and None when one would."""
    if result.leap == UNSYNCHRONISED_LEAP:
        return "not synchronised"
    distance = (result.root_delay or 0.0) / 2 + (result.root_dispersion or 0.0)
    return f"root distance {distance:.1f} s" if distance > FARTHEST_ROOT else None


def error_of(result: Result) -> str | None:
    """The error of ``result``: what its monitor says, else what the table finds wrong with what the server said.

    Not every agent judges what it measures, and the ledger has no root distance. From this text the step can be
    computed again.
    """
    if result.error or result.no_response or result.stratum == 0 or result.offset is None:
        return result.error
    return not_followed(result)


def next_score(old: float, step: Step) -> float:
    """The score of a pair after ``step``, when it was ``old`` before."""
    score = DECAY * old + step.step
    return score if step.maximum is None else min(score, step.maximum)


def _of_stratum_zero(error: str | None) -> Step | None:
    match error:
        case None | "":
            return UNSYNCHRONISED
        case "RATE":
            return RATE_LIMITED
        case "RSTR" | "DENY":
            return UNWANTED
    return None


def _of_offset(distance: float, stratum: int | None) -> Step:
    """``distance`` is ``|offset|`` in seconds."""
    if distance > FAR_OFF_BEYOND:
        return FAR_OFF
    if stratum is not None and stratum >= WORST_STRATUM:
        return TOO_FAR_FROM_REFERENCE
    if distance > OFF_BEYOND:
        return OFF
    if distance > COARSE_BEYOND:
        return Step(COARSE_SLOPE * distance + COARSE_BASE)
    if distance > FINE_BEYOND:
        return Step(min(BEST_STEP, FINE_SLOPE * distance + FINE_BASE))
    return GOOD
