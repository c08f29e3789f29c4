"""Send and receive UDP packets with kernel timestamps.

The interpreter sees a packet only when it gets to run: milliseconds late in a busy process. The kernel timestamps
packets on their way in and out, and this module reads these times. All times are Unix time in nanoseconds, by the same
clock.
"""

import errno
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Final, Self

import msgspec

_LARGEST: Final = 512
"""Number of bytes read of a packet; NTP needs only the first 48."""

_CONTROL_SPACE: Final = 512
"""Buffer size in bytes for the kernel's ancillary messages."""

# From linux/include/uapi/asm-generic/socket.h and net_tstamp.h; Python 3.11 has no names for them.
_LINUX_TIMESTAMPNS: Final = 35
_LINUX_TIMESTAMPING: Final = 37
_TX_SOFTWARE: Final = 1 << 1
_SOFTWARE: Final = 1 << 4
_TIMESTAMP_ONLY: Final = 1 << 11
_MSG_ERRQUEUE: Final = 0x2000

# From FreeBSD's sys/socket.h.
_FREEBSD_TIMESTAMP: Final = 0x0400
_FREEBSD_SCM_TIMESTAMP: Final = 0x02

_TWO_LONGS: Final = struct.Struct("@ll")
"""``struct timespec``, or ``struct timeval`` on FreeBSD."""

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
            _ask_for_stamps(self._socket)
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
        stamp = self._transmit_stamp()
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
            data, control, _, source = self._socket.recvmsg(_LARGEST, _CONTROL_SPACE)
        except BlockingIOError:
            return None
        stamp = _receive_stamp(control)
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

    def _transmit_stamp(self) -> int | None:
        if sys.platform != "linux":
            return None
        found: int | None = None
        while True:
            try:
                control = self._socket.recvmsg(0, _CONTROL_SPACE, _MSG_ERRQUEUE)[1]
            except OSError:
                return found
            found = _receive_stamp(control) or found


@contextmanager
def stamping() -> Iterator[None]:
    """Keep the kernel's timestamping of incoming packets enabled between exchanges.

    Linux starts some time after the first socket of the host has requested timestamps, and stops with the last one that
    has (``net_enable_timestamp`` in net/core/dev.c leaves the start to a kernel worker). With only the socket of the
    exchange, an answer could arrive earlier, and be timestamped only when it is read.
    """
    with ExitStack() as held:
        with suppress(OSError):  # without the socket, the behaviour is as described above
            _ask_for_stamps(held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        yield


def _ask_for_stamps(sock: socket.socket) -> None:
    try:
        if sys.platform == "linux":
            sock.setsockopt(socket.SOL_SOCKET, _LINUX_TIMESTAMPNS, 1)
            sock.setsockopt(socket.SOL_SOCKET, _LINUX_TIMESTAMPING, _TX_SOFTWARE | _SOFTWARE | _TIMESTAMP_ONLY)
        elif sys.platform.startswith("freebsd"):
            sock.setsockopt(socket.SOL_SOCKET, _FREEBSD_TIMESTAMP, 1)
    except OSError:
        return  # every packet is then marked as not timestamped by the kernel


def _receive_stamp(control: list[tuple[int, int, bytes]]) -> int | None:
    """Return the kernel's timestamp from a packet's ancillary messages."""
    for level, kind, data in control:
        if level != socket.SOL_SOCKET or len(data) < _TWO_LONGS.size:
            continue
        if sys.platform == "linux":
            if kind in (_LINUX_TIMESTAMPNS, _LINUX_TIMESTAMPING):
                seconds, nanoseconds = _TWO_LONGS.unpack_from(data)
                if seconds:
                    return int(seconds) * 1_000_000_000 + int(nanoseconds)
        elif sys.platform.startswith("freebsd") and kind == _FREEBSD_SCM_TIMESTAMP:
            seconds, microseconds = _TWO_LONGS.unpack_from(data)
            return int(seconds) * 1_000_000_000 + int(microseconds) * 1000
    return None
