"""The socket of a connection to the broker, read and written in large pieces.

The MQTT library asks for three pieces of each packet and sends each packet by itself. A system call costs more than all
else that is done with an acknowledgement, and whoever is on the other side is woken for each.
"""

import asyncio
import socket
import ssl
from typing import Any, Final

_PIECE: Final = 256 * 1024
"""Bytes that are read at once, at most."""

_NOT_NOW: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class BufferedSocket:
    """Wraps a connected socket that does not block. To be used in the thread of ``loop``."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._sock = sock
        self._loop = loop
        self._read = b""
        self._taken = 0
        self._received = False
        self._unsent = bytearray()
        self._waiting = False
        # Our messages are small. Nagle's algorithm would keep each one back until the other side has acknowledged the
        # one before, for which that takes its time: 40 ms on Linux.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __getattr__(self, name: str) -> Any:
        """Whatever else a socket has."""
        return getattr(self._sock, name)

    def fileno(self) -> int:
        """Of the socket; -1 when it is closed."""
        return self._sock.fileno()

    def pending(self) -> int:
        """Bytes that were received and not taken: nobody is told of them by the system."""
        return len(self._read) - self._taken + self._decrypted()

    def recv(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end.

        A piece from the system comes once in each round of the loop, so that the others in it have their turn however
        much is sent to us; what is left there is told of in the next round.

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
        if self._received and not self._decrypted():
            raise BlockingIOError
        self._read, self._taken = b"", 0
        self._read = self._sock.recv(_PIECE)
        if not self._received:
            self._received = True
            self._loop.call_soon(self._next_round)

    def _next_round(self) -> None:
        self._received = False

    def _decrypted(self) -> int:
        return self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else 0

    def send(self, data: bytes | bytearray) -> int:
        """Takes all of ``data`` for the next :meth:`flush`."""
        self._unsent += data
        return len(data)

    def flush(self) -> None:
        """Sends what :meth:`send` has taken; what the system does not take now, when it does.

        A broken connection is no error here: who reads finds it out, and what was not sent is lost with it.
        """
        if self._unsent and self.fileno() >= 0:
            try:
                del self._unsent[: self._sock.send(self._unsent)]
            except _NOT_NOW:
                pass
            except OSError:
                self._unsent.clear()
        self._wait(bool(self._unsent))

    def close(self) -> None:
        """Closes the socket, after a last attempt to send."""
        self.flush()
        self._wait(False)
        self._sock.close()

    def _wait(self, wanted: bool) -> None:
        """Whether the loop is to tell when the system takes more."""
        if wanted == self._waiting or self.fileno() < 0:
            return
        self._waiting = wanted
        if wanted:
            self._loop.add_writer(self.fileno(), self.flush)
        else:
            self._loop.remove_writer(self.fileno())
