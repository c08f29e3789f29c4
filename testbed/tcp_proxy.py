"""Run a TCP proxy on loopback that disturbs connections on demand, to test behaviour on a bad network."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Final, Self

_CHUNK: Final = 65536
_MOST_UNDERWAY: Final = 64
"""Maximum chunks in transit in one direction of a connection: bounds the memory, not the delay."""
_ROUNDS_TO_ACCEPT: Final = 5
"""Rounds of the event loop between accepting a connection and running its task, which closes it."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER, on, for 0 s: closing sends RST and discards unsent data (socket(7))."""


class Direction(Enum):
    """A direction of data."""

    TO_TARGET = "to target"
    TO_CLIENT = "to client"


@dataclass(slots=True)
class _Wire:
    """The disturbances and the amount of data in one direction, for all connections."""

    delay: float = 0.0
    slice: int = 0
    cut_after: int | None = None
    cut_new_after: int | None = None
    octets: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class _Connection:
    """Both sides of one connection; the target's side is set when it is connected."""

    writers: list[asyncio.StreamWriter]

    def reset(self) -> None:
        """Reset both sides, so that both notice immediately."""
        for writer in self.writers:
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()

    async def closed(self) -> None:
        """Wait until both sides are closed, in order unless they were reset."""
        for writer in self.writers:
            writer.close()
        for writer in self.writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class _Cut(Exception):
    """The connection must end in the middle of its data."""


class TcpProxy:
    """Listen on a free loopback port and forward to a target, within the context.

    ::

        async with TcpProxy("127.0.0.1", 1883) as proxy:
            ...                                     # connect to proxy.host, proxy.port
            proxy.delay(0.2)                        # each way
            proxy.pause(Direction.TO_CLIENT)        # requests arrive, answers do not
            proxy.resume()
            await proxy.cut()                       # all connections, at once
            proxy.refuse()                          # new ones ...
            await proxy.accept()                    # ... until now, on the same port

    Without a direction, a method applies to both. The proxy does not interpret the data, which may be TLS.

    Args:
        host: the loopback address to listen on.
        keeps_source: connect to the target from the client's own loopback address, so that it knows its clients apart.
    """

    def __init__(
        self, target_host: str, target_port: int, port: int = 0, *, host: str = "127.0.0.1", keeps_source: bool = False
    ) -> None:
        self.host = host
        self.port = port
        self.connections = 0
        """Number of connections accepted so far."""
        self._target = (target_host, target_port)
        self._keeps_source = keeps_source
        self._wires = {direction: _Wire() for direction in Direction}
        self._placeholder: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._active: dict[asyncio.Task[None], _Connection] = {}

    async def __aenter__(self) -> Self:
        self.resume()
        # A bound socket reserves the port while nothing listens.
        self._placeholder = _bind(self.host, self.port)
        self.port = self._placeholder.getsockname()[1]
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.refuse()
        for _ in range(_ROUNDS_TO_ACCEPT):
            await asyncio.sleep(0)
        await self.cut()
        if self._placeholder is not None:
            self._placeholder.close()

    @property
    def active(self) -> int:
        """Number of open connections."""
        return len(self._active)

    def octets(self, direction: Direction) -> int:
        """Number of octets forwarded so far."""
        return self._wires[direction].octets

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Delay data that arrives from now on; the throughput stays the same."""
        for wire in self._chosen(directions):
            wire.delay = seconds

    def slice(self, octets: int, *directions: Direction) -> None:
        """Write at most this many octets at a time; 0: no limit."""
        for wire in self._chosen(directions):
            wire.slice = octets

    def pause(self, *directions: Direction) -> None:
        """Stop forwarding; connections stay open, and senders are blocked once 4 MiB are held back."""
        for wire in self._chosen(directions):
            wire.open.clear()

    def resume(self, *directions: Direction) -> None:
        """Forward again, starting with the data held back."""
        for wire in self._chosen(directions):
            wire.open.set()

    def cut_after(self, octets: int, direction: Direction) -> None:
        """Reset, once, the connection that carries the last of the next ``octets``."""
        self._wires[direction].cut_after = octets

    def cut_new_after(self, octets: int | None, direction: Direction) -> None:
        """Reset each new connection after it has carried this many octets; None: stop doing so."""
        self._wires[direction].cut_new_after = octets

    async def cut(self) -> None:
        """Reset all connections and lose the data in transit. New ones are accepted as before."""
        active = dict(self._active)
        for task, connection in active.items():
            connection.reset()
            task.cancel()
        await asyncio.gather(*active, return_exceptions=True)

    def refuse(self) -> None:
        """Refuse new connections; open ones continue."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def accept(self) -> None:
        """Accept new connections again."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, sock=_bind(self.host, self.port))

    def _chosen(self, directions: tuple[Direction, ...]) -> Iterator[_Wire]:
        return (self._wires[direction] for direction in directions or Direction)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection([writer])
        self.connections += 1
        self._active[task] = connection
        try:
            await self._forward(connection, reader)
            await connection.closed()
        except asyncio.CancelledError:
            # Only cut() cancels this task; it has reset the connection. Streams would log the cancellation as an error.
            connection.reset()
            await connection.closed()
        finally:
            del self._active[task]

    async def _forward(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        to_target, to_client = (self._wires[direction] for direction in Direction)
        try:
            source = (connection.writers[0].get_extra_info("peername")[0], 0) if self._keeps_source else None
            target_reader, target_writer = await asyncio.open_connection(*self._target, local_addr=source)
            connection.writers.append(target_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, target_writer, to_target))
                group.create_task(_pump(target_reader, connection.writers[0], to_client))
        except* (OSError, _Cut):
            # One side is closed or was never connected; the other one must notice.
            connection.reset()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: _Wire) -> None:
    underway: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST_UNDERWAY)
    async with asyncio.TaskGroup() as group:
        group.create_task(_take(reader, wire, underway))
        group.create_task(_deliver(underway, wire, writer))


async def _take(reader: asyncio.StreamReader, wire: _Wire, underway: asyncio.Queue[tuple[float, bytes]]) -> None:
    loop = asyncio.get_running_loop()
    data = b"not at its end"
    while data:
        data = await reader.read(_CHUNK)
        await underway.put((loop.time() + wire.delay, data))


async def _deliver(underway: asyncio.Queue[tuple[float, bytes]], wire: _Wire, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    allowance = _Allowance(wire)
    while True:
        due, data = await underway.get()
        await asyncio.sleep(max(0.0, due - loop.time()))
        await wire.open.wait()
        if not data:
            writer.write_eof()
            return
        size = wire.slice or len(data)
        for start in range(0, len(data), size):
            await wire.open.wait()
            await _write(data[start : start + size], allowance, writer)
            # A listener in the same event loop must see the slices, too.
            await asyncio.sleep(0)


class _Allowance:
    """The number of octets that may still pass in one direction of one connection."""

    def __init__(self, wire: _Wire) -> None:
        self.wire = wire
        self._own = wire.cut_new_after

    def take(self, octets: int) -> tuple[int, bool]:
        """Return how many of these octets may pass, and whether the connection must end then."""
        common = self.wire.cut_after
        limits = [limit for limit in (common, self._own) if limit is not None and limit <= octets]
        passing = min([octets, *limits])
        if common is not None:
            self.wire.cut_after = common - passing or None
        if self._own is not None:
            self._own -= passing
        return passing, bool(limits)


async def _write(data: bytes, allowance: _Allowance, writer: asyncio.StreamWriter) -> None:
    passing, cut = allowance.take(len(data))
    writer.write(data[:passing])
    await writer.drain()
    allowance.wire.octets += passing
    if cut:
        raise _Cut


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Listener and placeholder share the port: Linux allows that while only one of them listens.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
