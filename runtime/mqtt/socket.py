"""Provide the buffered socket of a connection to the broker, opened without a thread.

The MQTT library would connect and perform the TLS handshake in a thread that cannot be cancelled, make three system
calls for each packet that it reads, and send each packet separately. The packets are small: a system call costs more
than the rest of an acknowledgement, and each one wakes the other side.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from runtime.threads import NoThread, in_thread

_REACH: Final = 5.0
"""Maximum seconds for the connection and TLS handshake with one of the broker's addresses."""

_RESOLVE: Final = 15.0
"""Maximum seconds for the look-up of the broker's name. A resolver whose first server is dead needs ten."""

_Addresses = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]

_PIECE: Final = 64 * 1024
"""Maximum bytes per read, so that one busy connection does not starve the others of the process."""

_NOT_NOW: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Unreachable(Exception):
    """No address of the broker could be reached; the message gives the reason for the last one."""


async def open_socket(host: str, port: int, tls: ssl.SSLContext | None) -> socket.socket:
    """Connect to the first of the host's addresses that answers, with a TLS handshake if ``tls`` is given.

    Returns:
        A connected non-blocking socket. All other sockets are closed, also after a cancellation.

    Raises:
        Unreachable: no address answered, or the certificate is not the expected one.
    """
    failure = f"{host} has no address"
    try:
        async with asyncio.timeout(_RESOLVE):
            addresses = await _resolve(host, port)
    except TimeoutError:
        raise Unreachable(f"{host}: the look-up of the name takes too long") from None
    except (OSError, UnicodeError, NoThread) as error:  # UnicodeError: an invalid host name
        raise Unreachable(f"{host}: {error}") from error
    for family, kind, protocol, _, address in addresses:
        try:
            async with asyncio.timeout(_REACH):
                return await _connected(socket.socket(family, kind, protocol), address, host, tls)
        except TimeoutError:
            failure = "the attempt to connect timed out"
        except OSError as error:
            failure = describe(error)
    raise Unreachable(failure)


async def _resolve(host: str, port: int) -> _Addresses:
    """Resolve the host's addresses.

    The system's look-up cannot be cancelled and has no time limit.

    Raises:
        OSError, UnicodeError: there is no address, or the look-up failed.
        NoThread: the system cannot start another thread.
    """
    with suppress(socket.gaierror):  # an address needs no look-up
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return await in_thread(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), f"look-up of {host}")


async def _connected(sock: socket.socket, address: Any, host: str, tls: ssl.SSLContext | None) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        sock.setblocking(False)
        # Nagle's algorithm would delay a small message until the previous one is acknowledged, by 40 ms on Linux.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, address)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            await _shake_hands(sock)
    except BaseException:
        sock.close()
        raise
    return sock


async def _shake_hands(sock: ssl.SSLSocket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(sock, loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(sock, loop.add_writer, loop.remove_writer)
        else:
            return


async def _ready(
    sock: socket.socket, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], bool]
) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    add(sock.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(sock.fileno())


def describe(error: OSError) -> str:
    """Return the system's text for an error, since asyncio has its own for a refused connection."""
    if isinstance(error, ssl.SSLError):
        return str(error)
    return os.strerror(error.errno) if error.errno else str(error) or "the broker closed the connection"


class BufferedSocket:
    """Connected non-blocking socket with buffers, for the MQTT library. Use it only in the event loop's thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._read = b""
        self._position = 0
        self._has_read = False
        self._unsent = bytearray()
        self._sent: asyncio.Future[None] | None = None
        self.failure: OSError | None = None
        """The error that ended reading, if any."""

    @property
    def backlog(self) -> int:
        """Return the number of bytes that the system has not accepted yet."""
        return len(self._unsent)

    def fileno(self) -> int:
        """Return the file descriptor; -1 after :meth:`close`."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Do nothing, since the socket never blocks."""

    def pending(self) -> int:
        """Return the number of buffered received bytes, which the system does not report as readable."""
        return len(self._read) - self._position + self._decrypted()

    def recv(self, size: int) -> bytes:
        """Return at most ``size`` bytes; none at the end of the connection.

        It makes one system call per iteration of the event loop, so that a flood does not starve other work; the system
        reports the rest as readable in the next iteration.

        Raises:
            BlockingIOError, ssl.SSLWantReadError: there is no data, or no more in this iteration.
            OSError: the connection is broken.
        """
        if self._position == len(self._read):
            self._receive()
        data = self._read[self._position : self._position + size]
        self._position += len(data)
        return data

    def _receive(self) -> None:
        if self._has_read and not self._decrypted():
            raise BlockingIOError
        self._read, self._position = b"", 0
        try:
            self._read = self._sock.recv(_PIECE)
        except _NOT_NOW:
            raise
        except OSError as error:
            self.failure = error
            raise
        if not self._has_read:
            self._has_read = True
            self._loop.call_soon(self._next_round)

    def _next_round(self) -> None:
        self._has_read = False

    def _decrypted(self) -> int:
        return self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) and self.fileno() >= 0 else 0

    def send(self, data: bytes | bytearray) -> int:
        """Buffer all of ``data`` for the next :meth:`flush`."""
        self._unsent += data
        return len(data)

    def flush(self) -> None:
        """Send the buffered bytes; the rest follows when the system accepts more.

        A broken connection is not an error here, since reading detects it.
        """
        if self.fileno() < 0:
            self._unsent.clear()
            return
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        except _NOT_NOW:
            self._loop.add_writer(self.fileno(), self.flush)
            return
        except OSError:
            self._unsent.clear()
        self._loop.remove_writer(self.fileno())
        if self._sent is not None and not self._sent.done():
            self._sent.set_result(None)

    async def flushed(self) -> None:
        """Wait until the system has accepted all bytes, or the connection is broken."""
        self.flush()
        if self._unsent:
            self._sent = self._loop.create_future()
            await self._sent

    def close(self) -> None:
        """Close the socket after a last attempt to send. Idempotent."""
        if self.fileno() >= 0:
            self.flush()
            self._loop.remove_writer(self.fileno())
            self._loop.remove_reader(self.fileno())
        self._unsent.clear()
        self._sock.close()
