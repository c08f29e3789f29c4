"""The buffered socket: nothing is lost, nothing is changed, and each system call carries what there is."""

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.mqtt_socket import BufferedSocket

MUCH = b"0123456789abcdef" * 262_144
"""More than the system takes at once."""


class Counting:
    """A socket that counts the calls which the kernel sees."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sent: list[int] = []
        self.received = 0

    def setsockopt(self, *_: object) -> None:
        """Sockets of a pair have none of TCP's options."""

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def send(self, data: bytes) -> int:
        self.sent.append(len(data))
        return self._sock.send(data)

    def recv(self, size: int) -> bytes:
        self.received += 1
        return self._sock.recv(size)


Pair = tuple[BufferedSocket, Counting, socket.socket]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def pair(loop: asyncio.AbstractEventLoop) -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(5.0)
    counting = Counting(ours)
    with ours, theirs:
        yield BufferedSocket(counting, loop), counting, theirs  # type: ignore[arg-type]  # as much of one as is used


@given(pieces=st.lists(st.binary(max_size=300), max_size=40), sizes=st.lists(st.integers(1, 400), min_size=1))
def test_what_arrives_is_taken_in_any_pieces_and_read_once(pieces: list[bytes], sizes: list[int]) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop = asyncio.new_event_loop()
    try:
        with ours, theirs:
            counting = Counting(ours)
            buffered = BufferedSocket(counting, loop)  # type: ignore[arg-type]  # as much of one as is used
            whole, taken = b"".join(pieces), b""
            theirs.sendall(whole)
            while len(taken) < len(whole):
                assert bool(taken) == bool(buffered.pending())
                taken += buffered.recv(sizes[len(taken) % len(sizes)])
            assert taken == whole
            assert counting.received == bool(whole)
            assert buffered.pending() == 0
            with pytest.raises(BlockingIOError):
                buffered.recv(1)
            next_round(loop)
            theirs.close()
            assert buffered.recv(1) == b""
    finally:
        loop.close()


def next_round(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(asyncio.sleep(0))


def test_who_sends_without_end_gets_one_piece_in_a_round(pair: Pair, loop: asyncio.AbstractEventLoop) -> None:
    buffered, counting, theirs = pair
    for number in range(1, 4):
        theirs.sendall(b"first ")
        assert buffered.recv(100) == b"first "
        theirs.sendall(b"second ")
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                buffered.recv(100)
        assert (counting.received, buffered.pending()) == (2 * number - 1, 0)
        next_round(loop)
        assert buffered.recv(100) == b"second "
        next_round(loop)


def test_packets_go_together(pair: Pair) -> None:
    buffered, counting, theirs = pair
    assert [buffered.send(packet) for packet in (b"one ", b"two ", b"three")] == [4, 4, 5]
    assert counting.sent == []
    buffered.flush()
    assert counting.sent == [13]
    assert theirs.recv(100) == b"one two three"
    buffered.flush()
    assert counting.sent == [13]


def test_what_the_system_does_not_take_now_goes_when_it_does(pair: Pair, loop: asyncio.AbstractEventLoop) -> None:
    buffered, counting, theirs = pair
    buffered.send(MUCH)
    buffered.flush()
    buffered.send(b"the end")
    buffered.flush()
    assert loop.run_until_complete(loop.run_in_executor(None, read_all, theirs, len(MUCH) + 7)) == MUCH + b"the end"
    assert len(counting.sent) > 1
    assert not loop.remove_writer(buffered.fileno())


def read_all(sock: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        found += sock.recv(65_536)
    return bytes(found)


def test_what_was_sent_last_still_goes_when_it_is_closed(pair: Pair) -> None:
    buffered, _, theirs = pair
    buffered.send(b"goodbye")
    buffered.close()
    assert theirs.recv(100) == b"goodbye"
    assert theirs.recv(100) == b""
    assert buffered.fileno() == -1
    buffered.send(b"too late")
    buffered.flush()
    buffered.close()


@pytest.mark.parametrize("end", [BufferedSocket.flush, BufferedSocket.close])
def test_a_broken_connection_is_found_by_who_reads(pair: Pair, end: Callable[[BufferedSocket], None]) -> None:
    buffered, counting, theirs = pair
    theirs.close()
    buffered.send(b"nobody hears")
    end(buffered)
    tried = len(counting.sent)
    buffered.flush()
    assert len(counting.sent) == tried == 1
    if end is BufferedSocket.flush:
        assert buffered.recv(1) == b""


def test_closed_in_the_middle_nothing_waits_for_it(pair: Pair, loop: asyncio.AbstractEventLoop) -> None:
    buffered, _, _ = pair
    number = buffered.fileno()
    buffered.send(MUCH)
    buffered.flush()
    buffered.close()
    assert not loop.remove_writer(number)
