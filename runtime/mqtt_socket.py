"""A connection's socket, read and written in large pieces.

paho reads the header of a packet byte by byte and writes each packet by itself: seven calls to the kernel for a message
and its acknowledgement, and each write goes through the network stack. Here all that has arrived is read at once, and
all that was written meanwhile leaves at once.
"""

import socket
import ssl
from typing import Final

_PIECE: Final = 16384
"""Bytes read at once; no record of TLS has more (RFC 8446, 5.1)."""

_LATER: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket that does not block raises when it cannot go on now."""


class BufferedSocket:
    """Stands for a connected socket that does not block; paho reads from it and writes to it.

    :meth:`fill` and :meth:`flush` are the only ones that talk to the kernel, and raise nothing: an error is raised to
    whoever reads next, as is usual for a connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = b""
        self._taken = 0
        self._unsent = bytearray()
        self._error: OSError | None = None
        self._ended = False

    def fill(self) -> None:
        """Reads what has arrived, after what was read before is used up."""
        pieces = [self._received[self._taken :]]
        try:
            while True:
                piece = self._sock.recv(_PIECE)
                pieces.append(piece)
                self._ended = not piece
                # What a TLS connection has decrypted already does not make the socket readable.
                if not isinstance(self._sock, ssl.SSLSocket) or not self._sock.pending():
                    break
        except _LATER:
            pass
        except OSError as error:
            self._error = error
        self._received, self._taken = b"".join(pieces), 0

    def flush(self) -> bool:
        """Sends what was written; returns whether all of it is gone, or never will be."""
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        except _LATER:
            return False
        except OSError as error:
            self._error = error
            self._unsent.clear()
        return True

    @property
    def broken(self) -> bool:
        """Whether an error waits for the next who reads."""
        return self._error is not None

    # ---- what paho and aiomqtt ask of a socket ---------------------------------------------------------------------

    def recv(self, size: int) -> bytes:
        """Up to ``size`` bytes of what was read; none when the connection has ended.

        Raises:
            BlockingIOError: nothing is there yet.
            OSError: the connection is broken.
        """
        if self._taken < len(self._received):
            begin = self._taken
            self._taken = min(begin + size, len(self._received))
            return self._received[begin : self._taken]
        if self._error is not None:
            raise self._error
        if self._ended:
            return b""
        raise BlockingIOError

    def send(self, data: bytes | bytearray) -> int:
        """Takes all of ``data``, to be sent with the next :meth:`flush`."""
        self._unsent += data
        return len(data)

    def pending(self) -> int:
        """Bytes that were read and not taken yet."""
        return len(self._received) - self._taken

    def fileno(self) -> int:
        """For the event loop; -1 when closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Sends what can be sent at once, a farewell for instance, and closes."""
        if self._sock.fileno() >= 0:
            self.flush()
        self._sock.close()
