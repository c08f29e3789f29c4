"""Apply the score formula to one result of a pair: ``score = 0.95 * old + step``, then limit it to the step's maximum.

:func:`step` judges the result, :func:`next_score` applies the formula; :mod:`ingest.plan` calls both for every result
that it stores. The table below is the pool's. It is defined only here, so that public pages can quote it.
A server that always answers well settles at 20, since ``1 / (1 - 0.95) = 20``.
"""

from dataclasses import dataclass
from typing import Final

from schema.messages import Result

DECAY: Final = 0.95
"""Factor of the old score at every result."""

BEST_STEP: Final = 1.0
"""The step of a good result."""

BEST_SCORE: Final = BEST_STEP / (1 - DECAY)
"""Limit to which the score of a perfect server converges."""


@dataclass(frozen=True, slots=True)
class Step:
    """The contribution of a result to the decayed score, and the maximum of the score afterwards, if any."""

    step: float
    maximum: float | None = None


NO_RESPONSE: Final = Step(-5.0)
RATE_LIMITED: Final = Step(-3.5)
"""Kiss code ``RATE``: the agent exceeded the server's rate limit, which is not only the server's fault."""
UNWANTED: Final = Step(-10.0, -50.0)
"""Kiss codes ``RSTR`` and ``DENY``: the server refuses queries, so it should not be handed out."""
UNSYNCHRONISED: Final = Step(-2.0, 5.0)
"""Stratum 0 without an error, as reported by other agents."""
BROKEN: Final = Step(-4.0)
"""Any other error, or an answer without an offset."""
NOT_FOLLOWED: Final = Step(-4.0)
"""The server declares its own time as unreliable, so that no common client would follow it."""
FAR_OFF: Final = Step(-4.0, -20.0)
TOO_FAR_FROM_REFERENCE: Final = Step(-4.0)
OFF: Final = Step(-2.0)
GOOD: Final = Step(BEST_STEP)

UNSYNCHRONISED_LEAP: Final = 3
"""Leap indicator of an unsynchronised server."""
FARTHEST_ROOT: Final = 3.0
"""Maximum root distance (root delay / 2 + root dispersion) in seconds up to which clients follow a server."""

FAR_OFF_BEYOND: Final = 3.0
"""Seconds of ``|offset|``."""
OFF_BEYOND: Final = 0.75
"""Seconds of ``|offset|``."""
WORST_STRATUM: Final = 8
"""Stratum from which on a server is too far from its reference."""

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
"""Prefix of an error that prevented the reply from arriving."""


def step(result: Result) -> Step:
    """Return the step of ``result``: the first entry of the table that applies."""
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
    """Return why no common client would follow the server at any offset, as an error text, or None."""
    if result.leap == UNSYNCHRONISED_LEAP:
        return "not synchronised"
    distance = (result.root_delay or 0.0) / 2 + (result.root_dispersion or 0.0)
    return f"root distance {distance:.1f} s" if distance > FARTHEST_ROOT else None


def error_of(result: Result) -> str | None:
    """Return the error of ``result``: the agent's, or else the reason why no client would follow the server.

    Not every agent checks the server's values, and the ledger has no root distance. With this text, the step can be
    computed again from the ledger.
    """
    if result.error or result.no_response or result.stratum == 0 or result.offset is None:
        return result.error
    return not_followed(result)


def next_score(old: float, step: Step) -> float:
    """Return the score of a pair after ``step``, from its ``old`` score."""
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
    """Return the step for ``distance``, which is ``|offset|`` in seconds."""
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
