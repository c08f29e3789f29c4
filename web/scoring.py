"""Explain how a score comes about, from the constants of the scorer, and compute it for a given answer. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from runtime.db.system_settings import Intervals
from schema.messages import Result
from scorer import formula
from scorer.formula import BEST_SCORE, DECAY, Step, next_score, step
from scorer.scorers.recentmedian import FEWEST, RECENT, tiers

_MOMENT: Final = datetime(2026, 1, 1, tzinfo=UTC)
_MOST_RESULTS: Final = 500


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table of steps."""

    result: str
    step: str
    maximum: float | None = None


def _rule(result: str, found: Step) -> Rule:
    return Rule(result, number(found.step), found.maximum)


def number(value: float) -> str:
    """Return a number with a true minus sign, without trailing zeros."""
    text = f"{value:.3f}".rstrip("0").rstrip(".")
    return text.replace("-", "−")  # noqa: RUF001  # as in print


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:g} ms"


def rules() -> Sequence[Rule]:
    """Return the table of steps: the first row that applies counts."""
    return (
        _rule("no answer", formula.NO_RESPONSE),
        _rule("the server asks for fewer requests (RATE)", formula.RATE_LIMITED),
        _rule("the server refuses requests (DENY, RSTR)", formula.UNWANTED),
        _rule("stratum 0 without an error", formula.UNSYNCHRONISED),
        _rule("any other error, or an answer without a time", formula.BROKEN),
        _rule(
            f"the server says that it is not synchronised, or more than {formula.FARTHEST_ROOT:g} s from its reference",
            formula.NOT_FOLLOWED,
        ),
        _rule(f"offset above {formula.FAR_OFF_BEYOND:g} s", formula.FAR_OFF),
        _rule(f"stratum {formula.WORST_STRATUM} or more", formula.TOO_FAR_FROM_REFERENCE),
        _rule(f"offset above {_ms(formula.OFF_BEYOND)}", formula.OFF),
        Rule(
            f"offset above {_ms(formula.COARSE_BEYOND)}",
            f"{number(formula.COARSE_BASE)} − {number(-formula.COARSE_SLOPE)} · offset in s",  # noqa: RUF001
        ),
        Rule(
            f"offset above {_ms(formula.FINE_BEYOND)}",
            f"{number(formula.FINE_BASE)} − {number(-formula.FINE_SLOPE)} · offset in s, at most "  # noqa: RUF001
            f"{number(formula.BEST_STEP)}",
        ),
        _rule("otherwise", formula.GOOD),
    )


@dataclass(frozen=True, slots=True)
class TierWords:
    """Which results count for the median."""

    statuses: str
    minutes: int


def tier_words(intervals: Intervals) -> list[TierWords]:
    """Return the tiers of the median in words, the first one that has a result decides."""
    order = ("active", "testing", "candidate")
    return [
        TierWords(" and ".join(one for one in order if one in tier.statuses), int(tier.window.total_seconds() // 60))
        for tier in tiers(intervals)
    ]


@dataclass(frozen=True, slots=True)
class Computed:
    """What a server gets that always answers in the same way."""

    step: Step
    settles_at: float
    """Score to which it converges."""


def compute(offset: float | None, stratum: int, leap: int) -> Computed:
    """Return the step of an answer, and the score after many of them.

    Args:
        offset: in seconds; None: there is no answer.
    """
    result = Result(
        server_id=0,
        ip="192.0.2.1",
        ts=_MOMENT,
        offset=offset,
        rtt=None if offset is None else 0.02,
        stratum=None if offset is None else stratum,
        leap=None if offset is None else leap,
        no_response=offset is None,
    )
    found, score = step(result), 0.0
    for _ in range(_MOST_RESULTS):
        score = next_score(score, found)
    return Computed(found, round(score, 6))


FACTS: Final = {"decay": DECAY, "best": round(BEST_SCORE, 6), "recent": RECENT, "fewest": FEWEST}
