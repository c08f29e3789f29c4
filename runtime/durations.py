"""Parse and format durations in Go's form, ``9m`` or ``1h30m``, for the pool's settings and operators' input."""

import math
import re
from typing import Final

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER: Final = r"(?:\d{1,12}(?:\.\d{0,9})?|\.\d{1,9})"
_PART: Final = re.compile(rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_ALL: Final = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)


def parse_duration(text: str) -> float:
    """Return the seconds of ``text``: the sum of numbers with units (``ns us ms s m h``); ``0`` needs no unit.

    Raises:
        ValueError: it is not a duration, or it is negative.
    """
    if text == "0":
        return 0.0
    if not _ALL.fullmatch(text):
        raise ValueError("must be a duration such as 90s, 9m or 1h30m")
    return math.fsum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def duration_text(seconds: float) -> str:
    """Format ``seconds`` (not negative, to the millisecond) in that form: ``1h30m``, ``9m``, ``4.5s``, ``0s``."""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{rest / 1000:g}s" if rest else ""]
    return "".join(parts) or "0s"
