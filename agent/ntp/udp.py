"""Send and receive UDP packets with kernel timestamps.

The interpreter sees a packet only when it gets to run: milliseconds late in a busy process. The kernel timestamps
packets on their way in and out, and this module reads these times. All times are Unix time in nanoseconds, by the same
clock.
"""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Final, Self

import msgspec

from agent.ntp.kernel_stamps import CONTROL_SPACE, STAMPS

_LARGEST: Final = 512
"""Number of bytes read of a packet; NTP needs only the first 48."""

_MAX_SENDING: Final = 1_000_000_000
"""Nanoseconds within which the kernel's transmit timestamp must follow our own."""


class Datagram(msgspec.Struct, frozen=True, gc=False):
    """A packet that arrived."""

    data: bytes
    source: tuple[str, int]
    at: int
    by_kernel: bool
    """The kernel timestamped the packet; otherwise we did, after the fact."""


class UdpSocket:
    """A non-blocking socket for one exchange, bound and connected to one peer. A context manager.

    Args:
        peer: address and port.
        source: local address to send from; with ``None``, or an address of another host, the kernel chooses.

    Raises:
        OSError: the peer cannot be reached, or no socket can be created.
    """

    def __init__(self, peer: tuple[str, int], source: str | None) -> None:
        family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self.source_is_foreign = False
        """The source address does not belong to this host, and was not used."""
        self._sent_at = 0
        try:
            self._socket.setblocking(False)
            STAMPS.request(self._socket)
            if source is not None:
                self._bind(source)
            self._socket.connect(peer)
            self.peer: tuple[str, int] = self._socket.getpeername()[:2]
            """In the kernel's notation, and therefore equal to the source of its packets."""
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Return the file descriptor for the event loop."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Send to the peer.

        Raises:
            OSError: the kernel did not accept it, or an earlier packet was answered with an ICMP error.
        """
        self._sent_at = time.time_ns()
        self._socket.send(data)

    def sent_at(self) -> int:
        """Return when the last packet was sent: the kernel's timestamp, else the time of our call.

        The kernel's timestamp is available once the packet is on the wire, and is later than ours by any interruption
        in between. This must also be called when the socket is reported as readable, or it remains so.
        """
        stamp = STAMPS.transmitted(self._socket)
        if stamp is not None and 0 <= stamp - self._sent_at < _MAX_SENDING:
            self._sent_at = stamp
        return self._sent_at

    def receive(self) -> Datagram | None:
        """Return the next packet, or ``None`` if there is none yet.

        Raises:
            OSError: an ICMP error came back, for example from a closed port.
        """
        looked_at = time.time_ns()
        try:
            data, control, _, source = self._socket.recvmsg(_LARGEST, CONTROL_SPACE)
        except BlockingIOError:
            return None
        stamp = STAMPS.received(control)
        at = time.time_ns() if stamp is None else stamp
        # A packet that arrived before the kernel started to timestamp gets its timestamp on reading, no better than
        # ours.
        return Datagram(data, (source[0], source[1]), at, stamp is not None and stamp < looked_at)

    def _bind(self, source: str) -> None:
        try:
            self._socket.bind((source, 0))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EINVAL):
                raise
            self.source_is_foreign = True


@contextmanager
def stamping() -> Iterator[None]:
    """Keep the kernel's timestamping of incoming packets enabled between exchanges.

    Linux starts some time after the first socket of the host has requested timestamps, and stops with the last one that
    has (``net_enable_timestamp`` in net/core/dev.c leaves the start to a kernel worker). With only the socket of the
    exchange, an answer could arrive earlier, and be timestamped only when it is read.
    """
    with ExitStack() as held:
        with suppress(OSError):  # without the socket, the behaviour is as described above
            STAMPS.request(held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        yield
