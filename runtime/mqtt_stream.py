"""MQTT packets over a stream of bytes: taken out of large pieces, and sent together.

The mqtt5 library reads and writes packets, and does no input or output. Our packets are small: a system call costs more
than all else that is done with an acknowledgement, and whoever is on the other side is woken for each.
"""

import asyncio
import os
import ssl
from collections.abc import Callable
from typing import Final, cast

import mqtt5

_PIECE: Final = 64 * 1024
"""Bytes that are read at once, at most: all connections of a process have their turn, however much one is sent."""


class Malformed(Exception):
    """What the broker sent is no packet."""


class PacketStream(asyncio.BufferedProtocol):
    """The packets of one connection.

    Args:
        take: is given each packet.
        ended: called once when the connection is over: with the error that ended it, or None when it was closed.
    """

    def __init__(self, take: Callable[[mqtt5.Packet], None], ended: Callable[[Exception | None], None]) -> None:
        self._take = take
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = memoryview(bytearray(_PIECE))
        self._filled = 0
        self._unsent = bytearray()
        self._malformed: Malformed | None = None

    def send(self, packet: bytes) -> None:
        """Sends a packet, together with all that are sent in this moment; nothing when the connection is over."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent += packet

    def close(self) -> None:
        """Ends the connection when all has been sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._unsent and self._is_open():
            assert self._transport is not None
            self._transport.write(self._unsent)
        self._unsent = bytearray()

    def _is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    # ---- what asyncio calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a connection."""
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: there is always room for one."""
        return self._received[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have come."""
        self._filled += nbytes
        taken = 0
        try:
            while taken < self._filled and self._is_open():
                read = _read(self._received[taken : self._filled])
                if read is None:
                    break
                packet, size = read
                taken += size
                self._take(packet)
        except Malformed as error:
            self._malformed = error
            self.abort()
        self._keep(taken)

    def _keep(self, taken: int) -> None:
        """Makes room behind the packet that has come in part."""
        rest = self._received[taken : self._filled]
        if len(rest) == len(self._received):
            self._received = memoryview(bytearray(2 * len(rest)))
        elif not rest and len(self._received) > _PIECE:
            self._received = memoryview(bytearray(_PIECE))
        self._received[: len(rest)] = rest
        self._filled = len(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._ended(self._malformed or exc)


def _read(received: memoryview) -> tuple[mqtt5.Packet, int] | None:
    """The first packet and its size, or None when it has not come completely.

    Raises:
        Malformed: it is none.
    """
    try:
        return mqtt5.read(received)
    except IndexError:
        return None
    except ValueError as error:
        raise Malformed(f"malformed packet: {error}") from None
    except BaseException as error:
        # The library panics over text that is no UTF-8, and a panic is no Exception.
        if type(error).__module__ == "pyo3_runtime":
            raise Malformed("malformed packet") from None
        raise


def in_words(error: OSError) -> str:
    """In the system's words: asyncio has its own for a connection that is refused, and none for one that just ends."""
    if isinstance(error, ssl.SSLError):
        return str(error)
    return os.strerror(error.errno) if error.errno else str(error) or "the broker closed the connection"
