"""Parse the parameters of public addresses, with bounds for everything that costs work. Pure."""

import re
from dataclasses import dataclass
from typing import Final

DEFAULT_LIMIT: Final = 100
MOST_ROWS: Final = 10_000
"""Maximum rows of ``json`` and ``log``."""

MOST_POINTS: Final = 50_000
"""Maximum ``maxDataPoints`` of a range, for each of its series; also its default."""

LONGEST_RANGE: Final = 90 * 86_400
"""Seconds."""

DEFAULT_RANGE: Final = 3 * 86_400
"""Seconds of a range without ``from``."""

_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_RELATIVE: Final = re.compile(r"-([0-9]{1,9})([dhms])", re.ASCII)
_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)


class BadParameter(Exception):
    """A parameter cannot be used; the message says what is wrong, for the person who asks."""


@dataclass(frozen=True, slots=True)
class WantedMonitor:
    """Which monitors are wanted."""

    id: int | None = None
    name: str | None = None
    """Short name, also of a scorer."""
    all: bool = False


def parse_limit(text: str | None) -> int:
    """Return the number of rows: the default if it is no number, within 1 and :data:`MOST_ROWS` otherwise."""
    number = _number(text)
    return DEFAULT_LIMIT if number is None else max(1, min(MOST_ROWS, number))


def parse_since(text: str | None) -> int | None:
    """Return the time in seconds since 1970 after which rows are wanted; None: the newest ones are.

    Raises:
        BadParameter: it is no number.
    """
    if not text:
        return None
    number = _number(text)
    if number is None:
        raise BadParameter("since must be seconds since 1970, such as 1767225600")
    return max(0, number)


def parse_monitor(text: str | None, default: str) -> WantedMonitor | None:
    """Return the wanted monitors; None if no monitor can have this name.

    Args:
        default: name that counts if nothing is given.
    """
    match text or default:
        case "*":
            return WantedMonitor(all=True)
        case digits if digits.isascii() and digits.isdigit():
            return WantedMonitor(id=int(digits)) if len(digits) <= 10 else None
        case name if _NAME.fullmatch(name):
            return WantedMonitor(name=name.lower())
    return None


@dataclass(frozen=True, slots=True)
class Range:
    """A range of time in seconds since 1970, with both ends."""

    begin: int
    end: int
    points: int
    """Maximum points of each series."""


def parse_range(begin: str | None, end: str | None, points: str | None, now: int) -> Range:
    """Return the wanted range.

    Raises:
        BadParameter: a parameter is malformed, or the range is empty or too long.
    """
    until = now if not end else _moment("to", end, now)
    since = until - DEFAULT_RANGE if not begin else _moment("from", begin, now)
    if until <= since:
        raise BadParameter("to must be later than from")
    if until - since > LONGEST_RANGE:
        raise BadParameter(f"from and to must be at most {LONGEST_RANGE // 86_400} days apart")
    return Range(since, until, _points(points))


def _points(text: str | None) -> int:
    if not text:
        return MOST_POINTS
    number = _number(text)
    if number is None or not 1 <= number <= MOST_POINTS:
        raise BadParameter(f"maxDataPoints must be a number from 1 to {MOST_POINTS}")
    return number


def _moment(name: str, text: str, now: int) -> int:
    if relative := _RELATIVE.fullmatch(text):
        return now - int(relative[1]) * _UNITS[relative[2]]
    number = _number(text)
    if number is None or number < 0:
        raise BadParameter(f"{name} must be seconds since 1970, or relative to now such as -3d, -2h or -30m")
    return number


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _NUMBER.fullmatch(text.strip()) else None
