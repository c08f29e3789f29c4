"""Write numbers as existing tools read them. Pure."""

from datetime import datetime
from typing import Any


def decimal(value: float) -> str:
    """Return a number with at most nine decimals: without trailing zeros, exponent, or a negative zero."""
    text = f"{value:.9f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def plain(value: float) -> float | int:
    """Return a number as JSON has it: whole numbers without a decimal point, and no negative zero."""
    whole = int(value)
    return whole if whole == value else value


def milliseconds(microseconds: int) -> float | int:
    """Return a time in milliseconds."""
    return plain(microseconds / 1000)


def rfc3339(ts: datetime | None) -> str | None:
    """Return a naive UTC time in the form of RFC 3339, in whole seconds."""
    return None if ts is None else f"{ts.replace(microsecond=0).isoformat()}Z"


Members = dict[str, Any]
"""An object of JSON, whose members are in this order."""
