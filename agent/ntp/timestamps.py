"""Represent NTP's 64-bit timestamps as a separate type.

A timestamp counts units of 2⁻³² s from the beginning of an era of 2³² s; the wire format does not contain the era (RFC
5905, section 6). Only differences are meaningful: taken modulo 2⁶⁴ and read as signed, they are right across an era's
end as long as both times are within 68 years of each other.
"""

from datetime import UTC, datetime, timedelta
from typing import Final, NewType

Timestamp = NewType("Timestamp", int)
"""Units of 2⁻³² s since the beginning of an unknown era, below 2⁶⁴. Zero means: not set."""

Duration = NewType("Duration", int)
"""Units of 2⁻³² s, signed."""

_ERA: Final = 1 << 64
_SECOND: Final = 1 << 32
_NANOSECONDS: Final = 1_000_000_000
_UNIX_EPOCH: Final = 2_208_988_800
"""Seconds from the beginning of NTP's era 0 (1900) to that of Unix time (1970)."""


def from_unix_ns(nanoseconds: int) -> Timestamp:
    """Convert a Unix time in nanoseconds, rounded to the nearest unit (a quarter of a nanosecond)."""
    seconds, rest = divmod(nanoseconds, _NANOSECONDS)
    fraction = (rest * _SECOND + _NANOSECONDS // 2) // _NANOSECONDS
    return Timestamp(((seconds + _UNIX_EPOCH) * _SECOND + fraction) % _ERA)


def difference(later: Timestamp, earlier: Timestamp) -> Duration:
    """Return ``later - earlier``: of the two possible values, the one below 68 years."""
    modulo = (later - earlier) % _ERA
    return Duration(modulo - _ERA if modulo >= _ERA // 2 else modulo)


def to_seconds(duration: Duration | int | float) -> float:
    """Convert a duration to seconds."""
    return duration / _SECOND


def utc_from_unix_ns(nanoseconds: int) -> datetime:
    """Convert a Unix time in nanoseconds to a time in UTC, truncated to microseconds."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
