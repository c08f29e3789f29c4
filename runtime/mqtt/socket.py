"""The socket of a connection to the broker: made without a thread, read and written in large pieces.

The MQTT library would connect and shake hands in a thread that nobody can cancel, ask the system three times for each
packet it reads, and send each packet by itself. Our packets are small: a system call costs more than the rest of an
acknowledgement, and each one wakes whoever is on the other side.
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
"""Seconds for reaching one of the broker's addresses and shaking hands there."""

_RESOLVE: Final = 15.0
"""Seconds for looking up the broker's name. A resolver whose first server is dead needs ten."""

_Addresses = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]

_PIECE: Final = 64 * 1024
"""Bytes read at once, at most: every connection of a process has its turn, however much one of them is sent."""

_NOT_NOW: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Unreachable(Exception):
    """No address of the broker could be reached; the text says why for the last one."""


async def open_socket(host: str, port: int, tls: ssl.SSLContext | None) -> socket.socket:
    """Connects to the first of the host's addresses that answers, and shakes hands if ``tls`` is given.

    Returns:
        A connected socket that does not block. Every other socket is closed, also when the caller is cancelled.

    Raises:
        Unreachable: nobody answered, or the other side is not the one that we expect.
    """
    failure = f"{host} has no address"
    try:
        async with asyncio.timeout(_RESOLVE):
            addresses = await _resolve(host, port)
    except TimeoutError:
        raise Unreachable(f"{host}: the look-up of the name takes too long") from None
    except (OSError, UnicodeError, NoThread) as error:  # UnicodeError: no host can have this name
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
    """The host's addresses.

    The system's look-up cannot be cancelled, and takes as long as it likes.

    Raises:
        OSError, UnicodeError: there is none, or nobody knows now.
        NoThread: the system has no room for another thread.
    """
    with suppress(socket.gaierror):  # an address needs no look-up
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return await in_thread(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), f"look-up of {host}")


async def _connected(sock: socket.socket, address: Any, host: str, tls: ssl.SSLContext | None) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        sock.setblocking(False)
        # Nagle's algorithm would hold a small message back until the one before is acknowledged: 40 ms on Linux.
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
    """The system's words for an error: asyncio has its own for a refused connection."""
    if isinstance(error, ssl.SSLError):
        return str(error)
    return os.strerror(error.errno) if error.errno else str(error) or "the broker closed the connection"


class BufferedSocket:
    """A connected socket that does not block, as the MQTT library uses one. For the thread of the event loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._read = b""
        self._taken = 0
        self._had_its_turn = False
        self._unsent = bytearray()
        self._sent: asyncio.Future[None] | None = None
        self.failure: OSError | None = None
        """The error that reading ended with, if any."""

    @property
    def backlog(self) -> int:
        """Bytes that the system has not taken yet."""
        return len(self._unsent)

    def fileno(self) -> int:
        """The file descriptor; -1 after :meth:`close`."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Does nothing: it never blocks."""

    def pending(self) -> int:
        """Bytes received and not yet taken. The system reports none of them as readable."""
        return len(self._read) - self._taken + self._decrypted()

    def recv(self, size: int) -> bytes:
        """Takes at most ``size`` bytes; none at the end of the connection.

        Asks the system once in each round of the event loop, so that a flood starves nobody; the system reports the
        rest as readable in the next round.

        Raises:
            BlockingIOError, ssl.SSLWantReadError: nothing is there, or nothing more in this round.
            OSError: the connection is broken.
        """
        if self._taken == len(self._read):
            self._receive()
        taken = self._read[self._taken : self._taken + size]
        self._taken += len(taken)
        return taken

    def _receive(self) -> None:
        if self._had_its_turn and not self._decrypted():
            raise BlockingIOError
        self._read, self._taken = b"", 0
        try:
            self._read = self._sock.recv(_PIECE)
        except _NOT_NOW:
            raise
        except OSError as error:
            self.failure = error
            raise
        if not self._had_its_turn:
            self._had_its_turn = True
            self._loop.call_soon(self._next_round)

    def _next_round(self) -> None:
        self._had_its_turn = False

    def _decrypted(self) -> int:
        return self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) and self.fileno() >= 0 else 0

    def send(self, data: bytes | bytearray) -> int:
        """Takes all of ``data`` for the next :meth:`flush`."""
        self._unsent += data
        return len(data)

    def flush(self) -> None:
        """Sends the bytes taken by :meth:`send`; those that the system does not take now follow when it does.

        A broken connection is no error here: reading finds it.
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
        """Returns when the system has taken everything, or the connection is broken."""
        self.flush()
        if self._unsent:
            self._sent = self._loop.create_future()
            await self._sent

    def close(self) -> None:
        """Closes the socket after a last attempt to send. Does nothing the second time."""
        if self.fileno() >= 0:
            self.flush()
            self._loop.remove_writer(self.fileno())
            self._loop.remove_reader(self.fileno())
        self._unsent.clear()
        self._sock.close()
