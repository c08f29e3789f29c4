"""Test the socket to the broker: it loses no bytes, makes few system calls, and never stays open."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.mqtt.socket import BufferedSocket, Unreachable, open_socket
from testbed.fixtures.broker import Transport
from testbed.fixtures.broker_sessions import listening
from testbed.waiting import wait_until

MUCH = b"0123456789abcdef" * 262_144
"""More than the kernel accepts at once."""


class Counting:
    """A socket that counts system calls."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sent: list[int] = []
        self.received = 0

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
async def pair() -> AsyncIterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield make(ours), counting(ours), theirs


def make(ours: socket.socket) -> BufferedSocket:
    ours.setblocking(False)
    return BufferedSocket(_COUNTING.setdefault(ours, Counting(ours)))  # type: ignore[arg-type]  # the methods that are used


def counting(ours: socket.socket) -> Counting:
    return _COUNTING[ours]


_COUNTING: dict[socket.socket, Counting] = {}


@given(pieces=st.lists(st.binary(max_size=300), max_size=40), sizes=st.lists(st.integers(1, 400), min_size=1))
def test_bytes_are_read_with_one_system_call_and_returned_in_pieces(pieces: list[bytes], sizes: list[int]) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            buffered, whole, taken = make(ours), b"".join(pieces), b""
            theirs.sendall(whole)
            while len(taken) < len(whole):
                assert bool(taken) == bool(buffered.pending())
                taken += buffered.recv(sizes[len(taken) % len(sizes)])
            assert taken == whole
            assert counting(ours).received == bool(whole)
            assert buffered.pending() == 0
            with pytest.raises(BlockingIOError):
                buffered.recv(1)
            await asyncio.sleep(0)
            theirs.close()
            assert buffered.recv(1) == b""

    asyncio.run(run())


async def test_flood_is_read_once_per_event_loop_iteration(pair: Pair) -> None:
    buffered, calls, theirs = pair
    for number in range(1, 4):
        theirs.sendall(b"first ")
        assert buffered.recv(100) == b"first "
        theirs.sendall(b"second ")
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                buffered.recv(100)
        assert (calls.received, buffered.pending()) == (2 * number - 1, 0)
        await asyncio.sleep(0)
        assert buffered.recv(100) == b"second "
        await asyncio.sleep(0)


async def test_packets_are_sent_together(pair: Pair) -> None:
    buffered, calls, theirs = pair
    assert [buffered.send(packet) for packet in (b"one ", b"two ", b"three")] == [4, 4, 5]
    assert (calls.sent, buffered.backlog) == ([], 13)
    buffered.flush()
    assert calls.sent == [13]
    assert theirs.recv(100) == b"one two three"
    buffered.flush()
    assert calls.sent == [13]


async def test_bytes_the_kernel_does_not_accept_are_sent_later(pair: Pair) -> None:
    buffered, calls, theirs = pair
    buffered.send(MUCH)
    buffered.flush()
    buffered.send(b"the end")
    flushed = asyncio.create_task(buffered.flushed())
    assert await asyncio.to_thread(read_all, theirs, len(MUCH) + 7) == MUCH + b"the end"
    await flushed
    assert len(calls.sent) > 1
    assert not asyncio.get_running_loop().remove_writer(buffered.fileno())


def read_all(sock: socket.socket, size: int) -> bytes:
    sock.settimeout(20.0)
    found = bytearray()
    while len(found) < size:
        found += sock.recv(65_536)
    return bytes(found)


async def test_close_sends_the_remaining_bytes(pair: Pair) -> None:
    buffered, _, theirs = pair
    buffered.send(b"goodbye")
    buffered.close()
    assert theirs.recv(100) == b"goodbye"
    assert theirs.recv(100) == b""
    assert buffered.fileno() == -1
    buffered.send(b"too late")
    buffered.flush()
    await buffered.flushed()
    buffered.close()


@pytest.mark.parametrize("end", [BufferedSocket.flush, BufferedSocket.close])
async def test_broken_connection_is_detected_on_read(pair: Pair, end: Callable[[BufferedSocket], None]) -> None:
    buffered, calls, theirs = pair
    theirs.close()
    buffered.send(b"nobody hears")
    end(buffered)
    tried = len(calls.sent)
    buffered.flush()
    assert len(calls.sent) == tried == 1
    if end is BufferedSocket.flush:
        assert buffered.recv(1) == b""


async def test_close_with_unsent_bytes_removes_the_writer(pair: Pair) -> None:
    buffered, _, _ = pair
    number = buffered.fileno()
    buffered.send(MUCH)
    buffered.flush()
    buffered.close()
    assert not asyncio.get_running_loop().remove_writer(number)


async def test_refusing_address_is_skipped_and_reported_if_none_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one of another family, as for a host with IPv4 and IPv6 addresses."""
    look_up = socket.getaddrinfo
    closed = socket.create_server(("127.0.0.1", 0))
    open_server = socket.create_server(("127.0.0.1", 0))
    with closed, open_server:
        ports = [closed.getsockname()[1], open_server.getsockname()[1]]
        closed.close()

        def addresses(host: str, port: int, **how: int) -> list[tuple[object, ...]]:
            if how.get("flags"):
                return [*look_up(host, port, **how)]
            stream = socket.SOCK_STREAM
            return [
                (socket.AF_INET6, stream, 0, "", ("::1", ports[0], 0, 0)),
                *((socket.AF_INET, stream, 0, "", ("127.0.0.1", port)) for port in ports),
            ]

        monkeypatch.setattr(socket, "getaddrinfo", addresses)
        threads = threading.active_count()
        with await open_socket("broker.example", 1, None) as found:
            assert found.getpeername()[1] == ports[1]
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        await wait_until(lambda: threading.active_count() == threads)
        open_server.close()
        with pytest.raises(Unreachable, match="Connection refused"):
            await open_socket("broker.example", 1, None)


async def test_dead_addresses_are_skipped_and_the_name_is_resolved_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One address refuses, one accepts but stays silent; the name is resolved again for each connection."""
    monkeypatch.setattr("runtime.mqtt.socket._REACH", 2.0)
    asked, look_up = [], socket.getaddrinfo

    async def hang_up_last(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as gone:
        dead = [gone.getsockname(), silent.getsockname()]
        gone.close()
        async with listening(Transport("127.0.0.1", tls=True), hang_up_last) as address:

            def addresses(host: str, port: int, **how: int) -> list[tuple[object, ...]]:
                if how.get("flags"):
                    return [*look_up(host, port, **how)]
                asked.append(host)
                return [
                    (socket.AF_INET, socket.SOCK_STREAM, 0, "", one) for one in (*dead, ("127.0.0.1", address.port))
                ]

            monkeypatch.setattr(socket, "getaddrinfo", addresses)
            tls = address.tls()
            assert tls is not None
            tls.check_hostname = False  # the certificate is for the address
            for count in (1, 2):
                with await open_socket("broker.example", 1, tls) as found:
                    assert found.getpeername() == ("127.0.0.1", address.port)
                assert asked == ["broker.example"] * count
