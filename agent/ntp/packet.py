"""The 48 bytes of NTP (RFC 5905, section 7.3): what we send, and what we make of what comes back.

ntplib reads the header. It turns timestamps into floating point, which is only good to a quarter of a microsecond, so
the timestamps are read here as the 64-bit integers that they are.
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
"""Leap 0, version 4, mode 3 (client), and nothing that would tell who we are or what our clock says."""

_TIMESTAMPS: Final = struct.Struct("!24x8sQQ")
"""After header and reference timestamp: origin as it came, receive, transmit."""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A packet, taken apart and not yet judged."""

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
    """A client's packet with ``cookie`` (8 random bytes) in the place of the transmit timestamp.

    Whoever answers must have seen the request, and learns nothing about our clock (draft-ietf-ntp-data-minimization).
    """
    return _REQUEST_HEADER + cookie


def parse(data: bytes) -> Reply | None:
    """The packet in ``data``, or None when it is too short to be one. What follows the header is ignored."""
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
    """The reference id for people: a name at stratum 0 and 1, else four numbers as of an IPv4 address."""
    if reply.stratum <= 1:
        return _name(reply.reference) or reply.reference.hex()
    return ".".join(str(byte) for byte in reply.reference)


def kiss_code(reply: Reply) -> str | None:
    """The kiss code of a reply of stratum 0 (RFC 5905, section 7.4): four capitals or digits. None when it is none."""
    if reply.stratum != 0:
        return None
    name = _name(reply.reference)
    return name if len(name) == 4 and name.isalnum() and name == name.upper() else None


def _name(reference: bytes) -> str:
    """``reference`` as ASCII without its padding; empty when a byte is not printable."""
    stripped = reference.rstrip(b"\0 ")
    return stripped.decode("ascii") if stripped.isascii() and stripped.decode("ascii").isprintable() else ""
