"""Create batch ids: ULIDs (github.com/ulid/spec). Implemented here, since a library costs the daemon a megabyte."""

import os
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32."""


def new_ulid(unix_ns: int) -> str:
    """Return a new id: 48 bits of time in milliseconds, then 80 random bits, as 26 characters."""
    value = (unix_ns // 1_000_000 % (1 << 48)) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))
