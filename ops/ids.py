"""Parse ids that operators type."""

from typing import Final

_LARGEST: Final = 2**32 - 1
"""The maximum of an ``int unsigned`` column."""


def parse_id(text: str) -> int | None:
    """Parse an id; return ``None`` if it is not a number, and 0, which no row has, if it exceeds the column."""
    if not (text.isascii() and text.isdigit()):
        return None
    number = int(text[:20])
    return number if number <= _LARGEST else 0
