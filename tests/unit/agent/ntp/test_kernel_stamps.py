"""Test the requests for kernel timestamps, and the layouts of the kernels' answers, of each system on any system.

The numbers are those of the kernels' headers: Linux, include/uapi/asm-generic/socket.h; FreeBSD, sys/sys/socket.h.
"""

import errno
import socket
import struct
from typing import Any, cast

import pytest

from agent.ntp.kernel_stamps import FreeBsdStamps, KernelStamps, LinuxStamps, stamps_of

TIMESPEC = struct.pack("@ll", 1_900_000_000, 123_456_789)
TIMEVAL = struct.pack("@ll", 1_900_000_000, 123_456)
AT_NANOSECONDS = 1_900_000_000_123_456_789
AT_MICROSECONDS = 1_900_000_000_123_456_000
NOTHING = bytes(16)


class Recorder:
    """A socket that records its options, and refuses some."""

    def __init__(self, *refused: int) -> None:
        self.options: list[tuple[int, int, int]] = []
        self._refused = refused

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if option in self._refused:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        self.options.append((level, option, value))

    def recvmsg(self, *arguments: object) -> Any:
        raise AssertionError("only Linux has a queue of errors")


def requested(stamps: KernelStamps, *refused: int) -> list[tuple[int, int, int]]:
    recorder = Recorder(*refused)
    stamps.request(cast(socket.socket, recorder))
    return recorder.options


def message(kind: int, data: bytes, level: int = socket.SOL_SOCKET) -> tuple[int, int, bytes]:
    return level, kind, data


@pytest.mark.parametrize(
    ("platform", "kind"),
    [("linux", LinuxStamps), ("freebsd13", FreeBsdStamps), ("freebsd15", FreeBsdStamps), ("darwin", KernelStamps)],
)
def test_each_system_has_its_own(platform: str, kind: type[KernelStamps]) -> None:
    assert type(stamps_of(platform)) is kind


def test_linux_is_asked_for_stamps_of_both_directions() -> None:
    assert requested(LinuxStamps()) == [(socket.SOL_SOCKET, 35, 1), (socket.SOL_SOCKET, 37, 0x812)]


@pytest.mark.parametrize("kind", [35, 37])
def test_linux_gives_nanoseconds(kind: int) -> None:
    assert LinuxStamps().received([message(kind, TIMESPEC + NOTHING * 2)]) == AT_NANOSECONDS


def test_linux_gives_an_empty_stamp_that_does_not_count() -> None:
    stamps = LinuxStamps()
    assert stamps.received([message(37, NOTHING * 3)]) is None
    assert stamps.received([message(37, NOTHING * 3), message(35, TIMESPEC)]) == AT_NANOSECONDS


def test_freebsd_is_asked_for_nanoseconds_of_the_wall_clock() -> None:
    assert requested(FreeBsdStamps()) == [(socket.SOL_SOCKET, 0x0400, 1), (socket.SOL_SOCKET, 0x1017, 2)]


def test_freebsd_without_a_choice_of_clocks_gives_microseconds() -> None:
    stamps = FreeBsdStamps()
    assert requested(stamps, 0x1017) == [(socket.SOL_SOCKET, 0x0400, 1)]
    assert stamps.received([message(0x02, TIMEVAL)]) == AT_MICROSECONDS


def test_freebsd_gives_nanoseconds() -> None:
    assert FreeBsdStamps().received([message(0x05, TIMESPEC)]) == AT_NANOSECONDS


def test_freebsd_adds_information_on_the_stamp_that_is_none() -> None:
    info = message(0x07, bytes(64))
    assert FreeBsdStamps().received([info, message(0x05, TIMESPEC), info]) == AT_NANOSECONDS
    assert FreeBsdStamps().received([info]) is None


def test_freebsd_has_no_stamps_of_sent_packets() -> None:
    assert FreeBsdStamps().transmitted(cast(socket.socket, Recorder())) is None


@pytest.mark.parametrize("stamps", [LinuxStamps(), FreeBsdStamps()])
@pytest.mark.parametrize("kind", [2, 5, 35, 37])
def test_messages_of_others_and_short_ones_are_ignored(stamps: KernelStamps, kind: int) -> None:
    assert stamps.received([]) is None
    assert stamps.received([message(kind, TIMESPEC, socket.IPPROTO_IP)]) is None
    assert stamps.received([message(kind, TIMESPEC[:15])]) is None


@pytest.mark.parametrize("stamps", [LinuxStamps(), FreeBsdStamps()])
def test_kernel_that_refuses_costs_only_the_stamps(stamps: KernelStamps) -> None:
    assert requested(stamps, 35, 37, 0x0400, 0x1017) == []


def test_unknown_system_has_no_stamps() -> None:
    stamps = KernelStamps()
    assert requested(stamps) == []
    assert stamps.received([message(35, TIMESPEC)]) is None
    assert stamps.transmitted(cast(socket.socket, Recorder())) is None
