"""Parse and pack NTP packets as a server: enough of RFC 5905 to answer correctly, or deliberately wrongly.

It shares no code with the agent, whose packet arithmetic it tests.
"""

import struct
from dataclasses import dataclass
from typing import Final

PACKET_SIZE: Final = 48
TRANSMIT_AT: Final = 40
"""Offset of the transmit timestamp."""
MODE_CLIENT: Final = 3
MODE_SERVER: Final = 4
MODE_BROADCAST: Final = 5

_HEADER: Final = struct.Struct("!BBbbII4sQQQ")
"""Everything before the transmit timestamp (RFC 5905, figure 8)."""
_TIMESTAMP: Final = struct.Struct("!Q")
_FIRST: Final = struct.Struct("!BBb")
_UNIX_EPOCH: Final = 2_208_988_800
"""In seconds since 1900-01-01 (RFC 5905, figure 4)."""
_PRECISION: Final = -23
"""log2 of the seconds that it takes to read the clock: 0.1 µs."""
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """The fields of a client's packet that an answer needs."""

    version: int
    poll: int
    transmit: int
    """The client's transmit timestamp, 64 bits: an opaque cookie for the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A reply without its transmit timestamp. Timestamps are 64-bit NTP, root values are seconds."""

    leap: int
    version: int
    mode: int
    stratum: int
    poll: int
    root_delay: float
    root_dispersion: float
    reference_id: bytes
    reference: int
    origin: int
    receive: int


def parse_request(data: bytes) -> Request | None:
    """Parse the request in a datagram; None if it is not of version 1 to 4 in client mode."""
    if len(data) < PACKET_SIZE:
        return None
    first, _, poll = _FIRST.unpack_from(data)
    version, mode = first >> 3 & 7, first & 7
    if mode != MODE_CLIENT or not 1 <= version <= 4:
        return None
    return Request(version, poll, _TIMESTAMP.unpack_from(data, TRANSMIT_AT)[0])


def pack_header(header: Header) -> bytes:
    """Pack the first 40 octets of a reply."""
    return _HEADER.pack(
        header.leap << 6 | header.version << 3 | header.mode,
        header.stratum,
        header.poll,
        _PRECISION,
        short_format(header.root_delay),
        short_format(header.root_dispersion),
        header.reference_id,
        header.reference,
        header.origin,
        header.receive,
    )


def pack_timestamp(unix_ns: int) -> bytes:
    """Pack a :func:`timestamp` into eight octets."""
    return _TIMESTAMP.pack(timestamp(unix_ns))


def timestamp(unix_ns: int) -> int:
    """Convert nanoseconds since 1970 to a 64-bit NTP timestamp; eras wrap (RFC 5905, section 6)."""
    seconds, ns = divmod(unix_ns, _NS)
    return (seconds + _UNIX_EPOCH << 32 | (ns << 32) // _NS) & 0xFFFF_FFFF_FFFF_FFFF


def short_format(seconds: float) -> int:
    """Convert to NTP's short format, 16 bits of seconds and 16 of fraction; saturate larger values."""
    return min(round(seconds * 65536), 0xFFFF_FFFF)
