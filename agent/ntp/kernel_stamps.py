"""Request timestamps of packets from the kernel, and read them, which differs from system to system.

Linux and FreeBSD have different numbers for the same things, and Python 3.11 has names for none of them. Times are Unix
time in nanoseconds.
"""

import socket
import struct
import sys
from contextlib import suppress
from typing import Final

Control = list[tuple[int, int, bytes]]
"""The ancillary messages of a packet: level, type and data of each (recvmsg(2))."""

CONTROL_SPACE: Final = 512
"""Buffer size in bytes for ancillary messages."""

_TWO_LONGS: Final = struct.Struct("@ll")
"""``struct timespec``, or ``struct timeval``, on 64-bit systems."""

_NANOSECONDS: Final = 1_000_000_000


class KernelStamps:
    """A system whose timestamps are unknown to us: it gives none, and the program takes the time itself."""

    def request(self, sock: socket.socket) -> None:
        """Request timestamps of the packets that ``sock`` sends and receives, as far as the kernel can."""

    def received(self, control: Control) -> int | None:
        """Return the kernel's timestamp from the ancillary messages of a packet, or ``None``."""
        return None

    def transmitted(self, sock: socket.socket) -> int | None:
        """Return the time at which the kernel sent the last packet, or ``None`` if it does not say so (yet)."""
        return None


class LinuxStamps(KernelStamps):
    """Linux stamps packets in both directions. Those of sent packets are in the socket's error queue."""

    # From include/uapi/asm-generic/socket.h, linux/net_tstamp.h and linux/socket.h.
    SO_TIMESTAMPNS = 35
    SO_TIMESTAMPING = 37
    TX_SOFTWARE = 1 << 1
    SOFTWARE = 1 << 4
    TIMESTAMP_ONLY = 1 << 11
    MSG_ERRQUEUE = 0x2000

    def request(self, sock: socket.socket) -> None:
        """Request nanoseconds of received packets, and the stamps of sent ones without their data."""
        with suppress(OSError):  # every packet is then marked as not timestamped by the kernel
            sock.setsockopt(socket.SOL_SOCKET, self.SO_TIMESTAMPNS, 1)
            flags = self.TX_SOFTWARE | self.SOFTWARE | self.TIMESTAMP_ONLY
            sock.setsockopt(socket.SOL_SOCKET, self.SO_TIMESTAMPING, flags)

    def received(self, control: Control) -> int | None:
        """Return the time of a message of either option; the first of three times is the software's."""
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind in (self.SO_TIMESTAMPNS, self.SO_TIMESTAMPING):
                at = _time(data, 1)
                if at:
                    return at
        return None

    def transmitted(self, sock: socket.socket) -> int | None:
        """Empty the error queue, and return its last timestamp."""
        found: int | None = None
        while True:
            try:
                control = sock.recvmsg(0, CONTROL_SPACE, self.MSG_ERRQUEUE)[1]
            except OSError:
                return found
            found = self.received(control) or found


class FreeBsdStamps(KernelStamps):
    """FreeBSD stamps received packets only: with nanoseconds (since version 12), or else with microseconds."""

    # From sys/sys/socket.h.
    SO_TIMESTAMP = 0x0400
    SO_TS_CLOCK = 0x1017
    SO_TS_REALTIME = 2
    SCM_TIMESTAMP = 0x02
    SCM_REALTIME = 0x05

    def request(self, sock: socket.socket) -> None:
        """Request timestamps, and of the wall clock in nanoseconds."""
        with suppress(OSError):  # every packet is then marked as not timestamped by the kernel
            sock.setsockopt(socket.SOL_SOCKET, self.SO_TIMESTAMP, 1)
            sock.setsockopt(socket.SOL_SOCKET, self.SO_TS_CLOCK, self.SO_TS_REALTIME)

    def received(self, control: Control) -> int | None:
        """Return the time of a message of either kind: ``struct timespec`` or ``struct timeval``."""
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == self.SCM_REALTIME:
                return _time(data, 1)
            if level == socket.SOL_SOCKET and kind == self.SCM_TIMESTAMP:
                return _time(data, 1_000)
        return None


def _time(data: bytes, unit: int) -> int | None:
    """Return the time in seconds and a fraction with this unit, in nanoseconds; ``None`` if the data is too short."""
    if len(data) < _TWO_LONGS.size:
        return None
    seconds, fraction = _TWO_LONGS.unpack_from(data)
    return int(seconds) * _NANOSECONDS + int(fraction) * unit


def stamps_of(platform: str) -> KernelStamps:
    """Return the timestamps of a system, by its name in :data:`sys.platform`."""
    if platform == "linux":
        return LinuxStamps()
    return FreeBsdStamps() if platform.startswith("freebsd") else KernelStamps()


STAMPS: Final = stamps_of(sys.platform)
"""Those of this system."""
