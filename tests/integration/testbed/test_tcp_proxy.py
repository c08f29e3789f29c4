"""Test that the TCP proxy disturbs a connection as requested, and not otherwise."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from testbed import tcp_proxy
from testbed.fixtures.broker import require_address
from testbed.ports import ADDRESS_V6
from testbed.tcp_proxy import Direction, TcpProxy
from testbed.waiting import PATIENCE, wait_until

SILENCE = 0.15

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back the received data, even after the other side has ended its stream."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@pytest.fixture
async def target() -> AsyncIterator[int]:
    """Return the port of an echo server; wait until all its connections have ended after the test."""
    open_connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_connections
        open_connections += 1
        try:
            await echo(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            open_connections -= 1

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await wait_until(lambda: open_connections == 0)


@pytest.fixture
async def proxy(target: int) -> AsyncIterator[TcpProxy]:
    async with TcpProxy("127.0.0.1", target) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def connected(proxy: TcpProxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(streams: Streams, text: bytes, timeout: float = PATIENCE) -> bytes:
    reader, writer = streams
    async with asyncio.timeout(timeout):
        writer.write(text)
        await writer.drain()
        return await reader.readexactly(len(text))


async def best_of_five(work: Callable[[], Awaitable[object]]) -> float:
    """Return the fewest seconds that ``work`` took, since a busy machine prolongs it."""
    loop, took = asyncio.get_running_loop(), []
    for _ in range(5):
        started = loop.time()
        await work()
        took.append(loop.time() - started)
    return min(took)


async def test_data_is_forwarded_unchanged_in_both_directions(proxy: TcpProxy) -> None:
    sent = os.urandom(3_000_000)
    async with connected(proxy) as (reader, writer):

        async def send() -> None:
            writer.write(sent)
            await writer.drain()
            writer.write_eof()

        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(send())
            received = group.create_task(reader.read())
    assert hashlib.sha256(received.result()).digest() == hashlib.sha256(sent).digest()
    assert proxy.octets(Direction.TO_TARGET) == proxy.octets(Direction.TO_CLIENT) == len(sent)
    await wait_until(lambda: proxy.active == 0)
    assert proxy.connections == 1


async def test_delay_does_not_limit_the_throughput(proxy: TcpProxy) -> None:
    loop = asyncio.get_running_loop()
    async with connected(proxy) as streams:
        proxy.delay(0.2)
        started = loop.time()
        await exchange(streams, b"x")
        assert loop.time() - started >= 0.4
        started = loop.time()
        await exchange(streams, bytes(3_000_000))
        # About fifty chunks, which would take several seconds if they were delayed one after the other.
        assert 0.4 <= loop.time() - started < 2.0
        proxy.delay(0.0)
        assert await best_of_five(lambda: exchange(streams, b"x")) < 0.2


async def test_one_direction_can_be_delayed(proxy: TcpProxy) -> None:
    loop = asyncio.get_running_loop()
    there: list[float] = []
    async with connected(proxy) as streams:
        proxy.delay(0.3, Direction.TO_CLIENT)
        for number in range(1, 6):
            started = loop.time()
            streams[1].write(b"x")
            await wait_until(lambda number=number: proxy.octets(Direction.TO_TARGET) == number)  # type: ignore[misc]
            there.append(loop.time() - started)
            await streams[0].readexactly(1)
            assert loop.time() - started >= 0.3
    assert min(there) < 0.3


class Recorder(asyncio.Protocol):
    """Record the pieces in which data arrives; a stream would join them."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)


@pytest.mark.parametrize("size", [0, 1, 5])
async def test_slices_arrive_separately_and_completely(size: int) -> None:
    pieces: list[bytes] = []
    sent = bytes(range(100))
    server = await asyncio.get_running_loop().create_server(lambda: Recorder(pieces), "127.0.0.1", 0)
    async with server, TcpProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        proxy.slice(size)
        async with connected(proxy) as (_, writer):
            writer.write(sent)
            await wait_until(lambda: sum(map(len, pieces)) == len(sent))
    assert b"".join(pieces) == sent
    # Two slices may be read together, if the second was written before the first was read.
    assert max(map(len, pieces)) <= (2 * size or len(sent))
    assert (len(pieces) == 1) == (size == 0)


async def test_paused_data_is_held_back_and_not_lost(proxy: TcpProxy) -> None:
    async with connected(proxy) as streams:
        await exchange(streams, b"before")
        proxy.pause(Direction.TO_CLIENT)
        with pytest.raises(TimeoutError):
            await exchange(streams, b"held", SILENCE)
        assert proxy.octets(Direction.TO_TARGET) == 10
        assert proxy.octets(Direction.TO_CLIENT) == 6
        proxy.resume()
        async with asyncio.timeout(PATIENCE):
            assert await streams[0].readexactly(4) == b"held"


async def test_end_of_stream_is_held_back_during_a_pause(proxy: TcpProxy) -> None:
    async with connected(proxy) as (reader, writer):
        proxy.pause(Direction.TO_TARGET)
        writer.write_eof()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SILENCE):
                await reader.read()
        proxy.resume()
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""


async def test_pause_causes_back_pressure(proxy: TcpProxy) -> None:
    async with connected(proxy) as (_, writer):
        proxy.pause(Direction.TO_TARGET)
        writer.write(bytes(64_000_000))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SILENCE):
                await writer.drain()


async def test_cutting_resets_all_connections_and_accepts_new_ones(proxy: TcpProxy) -> None:
    async with connected(proxy) as one, connected(proxy) as other:
        await exchange(one, b"x")
        await exchange(other, b"x")
        await proxy.cut()
        assert proxy.active == 0
        for reader, _ in (one, other):
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(PATIENCE):
                    await reader.read()
    async with connected(proxy) as streams:
        await exchange(streams, b"again")
    assert proxy.connections == 3


@pytest.mark.parametrize("octets", [0, 1, 7])
async def test_connection_can_be_cut_in_the_middle_of_a_message(proxy: TcpProxy, octets: int) -> None:
    async with connected(proxy) as streams:
        await exchange(streams, b"whole")
        proxy.cut_after(octets, Direction.TO_TARGET)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await exchange(streams, b"cut in two")
    assert proxy.octets(Direction.TO_TARGET) == 5 + octets
    async with connected(proxy) as streams:
        assert await exchange(streams, b"and only once") == b"and only once"


@pytest.mark.parametrize("octets", [1, 7])
async def test_every_new_connection_can_be_cut_after_some_octets(proxy: TcpProxy, octets: int) -> None:
    async with connected(proxy) as old:
        await exchange(old, b"x")
        proxy.cut_new_after(octets, Direction.TO_TARGET)
        for _ in range(3):
            before = proxy.octets(Direction.TO_TARGET)
            async with connected(proxy) as streams:
                with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                    await exchange(streams, b"cut early")
            assert proxy.octets(Direction.TO_TARGET) == before + octets
        assert await exchange(old, b"not a new one") == b"not a new one"
        proxy.cut_new_after(None, Direction.TO_TARGET)
        async with connected(proxy) as streams:
            assert await exchange(streams, b"no more") == b"no more"


def test_at_most_four_mebibytes_are_held_back() -> None:
    assert tcp_proxy._MOST_UNDERWAY * tcp_proxy._CHUNK == 4 * 1024 * 1024


async def test_octets_of_several_chunks_are_added_up(proxy: TcpProxy) -> None:
    proxy.cut_new_after(7, Direction.TO_TARGET)
    async with connected(proxy) as streams:
        assert await exchange(streams, b"four") == b"four"
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await exchange(streams, b"more")
    assert proxy.octets(Direction.TO_TARGET) == 7


async def test_proxy_listens_at_the_given_address(target: int) -> None:
    require_address(ADDRESS_V6)
    async with TcpProxy("127.0.0.1", target, host=ADDRESS_V6) as proxy:
        for _ in range(2):
            async with connected(proxy) as streams:
                assert await exchange(streams, b"by IPv6") == b"by IPv6"
            proxy.refuse()
            await proxy.accept()


async def test_target_sees_the_address_of_the_client_on_request() -> None:
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername")[0])
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for keeps_source in (True, False):
            async with TcpProxy("127.0.0.1", port, keeps_source=keeps_source) as proxy:
                reader, writer = await asyncio.open_connection(proxy.host, proxy.port, local_addr=("127.44.0.7", 0))
                assert await reader.read() == b""
                writer.close()
    assert seen == ["127.44.0.7", "127.0.0.1"]


async def test_refusing_rejects_new_connections_and_keeps_old_ones(proxy: TcpProxy) -> None:
    port = proxy.port
    async with connected(proxy) as streams:
        await exchange(streams, b"x")
        proxy.refuse()
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(proxy.host, port)
        await exchange(streams, b"still here")
        await proxy.accept()
        await proxy.accept()
        async with connected(proxy) as new:
            await exchange(new, b"x")
    assert proxy.port == port


async def test_missing_target_resets_the_connection(proxy: TcpProxy, target: int) -> None:
    async with TcpProxy("127.0.0.1", target) as other:
        gone = other.port
    async with TcpProxy("127.0.0.1", gone) as proxy, connected(proxy) as (reader, _):
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(PATIENCE):
                await reader.read()


async def test_hanging_connections_end_with_the_proxy(target: int) -> None:
    async with TcpProxy("127.0.0.1", target) as proxy, connected(proxy) as (reader, writer):
        proxy.pause()
        writer.write(b"never arrives")
        async with asyncio.timeout(PATIENCE):
            await proxy.__aexit__(None, None, None)
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert proxy.active == 0
