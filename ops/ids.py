"""Ids that people type."""

from typing import Final

_LARGEST: Final = 2**32 - 1
"""What an ``int unsigned`` holds."""


def parse_id(text: str) -> int | None:
    """The id that ``text`` is, None when it is no number; 0, which no row has, when no column could hold it."""
    if not (text.isascii() and text.isdigit()):
        return None
    number = int(text[:20])
    return number if number <= _LARGEST else 0
