"""Build and parse the 48 bytes of an NTP packet (RFC 5905, section 7.3).

ntplib parses the header. It converts timestamps to floating point, which is only accurate to a quarter of a
microsecond, so the timestamps are read here as 64-bit integers.
"""

import struct
from typing import Final

import msgspec
import ntplib

from agent.ntp.timestamps import Timestamp

SIZE: Final = 48
COOKIE_SIZE: Final = 8
SERVER_MODE: Final = 4

_REQUEST_HEADER: Final = bytes([0 << 6 | 4 << 3 | 3]) + bytes(39)
"""Leap 0, version 4, mode 3 (client), and no field that reveals our identity or our clock."""

_TIMESTAMPS: Final = struct.Struct("!24x8sQQ")
"""The fields after header and reference timestamp: origin as raw bytes, receive, transmit."""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A parsed packet that has not been judged yet."""

    leap: int
    mode: int
    stratum: int
    root_delay: float
    """Seconds."""
    root_dispersion: float
    """Seconds."""
    reference: bytes
    """The four bytes of the reference id."""
    origin: bytes
    """Must be the cookie of our request; never used as a time."""
    received: Timestamp
    transmitted: Timestamp


def request(cookie: bytes) -> bytes:
    """Return a client's packet with ``cookie`` (8 random bytes) in place of the transmit timestamp.

    Only a host that has seen the request can answer, and it learns nothing about our clock
    (draft-ietf-ntp-data-minimization).
    """
    return _REQUEST_HEADER + cookie


def parse(data: bytes) -> Reply | None:
    """Parse a packet; return ``None`` if ``data`` is too short. Bytes after the header are ignored."""
    if len(data) < SIZE:
        return None
    header = ntplib.NTPPacket()
    header.from_data(data)
    origin, received, transmitted = _TIMESTAMPS.unpack_from(data)
    return Reply(
        leap=header.leap,
        mode=header.mode,
        stratum=header.stratum,
        root_delay=header.root_delay,
        root_dispersion=header.root_dispersion,
        reference=data[12:16],
        origin=origin,
        received=Timestamp(received),
        transmitted=Timestamp(transmitted),
    )


def reference_text(reply: Reply) -> str:
    """Return the reference id for people: a name at stratum 0 and 1, else four numbers as in an IPv4 address."""
    if reply.stratum <= 1:
        return _name(reply.reference) or reply.reference.hex()
    return ".".join(str(byte) for byte in reply.reference)


def kiss_code(reply: Reply) -> str | None:
    """Return the kiss code of a reply of stratum 0 (RFC 5905, section 7.4): four capitals or digits, else ``None``."""
    if reply.stratum != 0:
        return None
    name = _name(reply.reference)
    return name if len(name) == 4 and name.isalnum() and name == name.upper() else None


def _name(reference: bytes) -> str:
    """Return ``reference`` as ASCII without its padding; empty if a byte is not printable."""
    stripped = reference.rstrip(b"\0 ")
    return stripped.decode("ascii") if stripped.isascii() and stripped.decode("ascii").isprintable() else ""
