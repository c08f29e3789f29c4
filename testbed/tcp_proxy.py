"""A TCP proxy on loopback that spoils connections on demand, for tests of what a bad network does to us."""

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
"""Chunks of one direction of a connection that are on the simulated wire: bounds memory, not the delay."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER, on, for 0 s: closing sends RST and forgets what was not sent (socket(7))."""


class Direction(Enum):
    """Which way octets go."""

    TO_TARGET = "to target"
    TO_CLIENT = "to client"


@dataclass(slots=True)
class _Wire:
    """One direction of all connections: what is done to it, and what it has carried."""

    delay: float = 0.0
    slice: int = 0
    cut_after: int | None = None
    cut_new_after: int | None = None
    octets: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class _Connection:
    """Both sides of one connection, the target's only once it is there."""

    writers: list[asyncio.StreamWriter]

    def reset(self) -> None:
        """Ends it so that both sides notice at once."""
        for writer in self.writers:
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()

    async def closed(self) -> None:
        """Waits until both sides are gone, properly where they were not reset."""
        for writer in self.writers:
            writer.close()
        for writer in self.writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class _Cut(Exception):
    """The connection is to end in the middle of what it carries."""


class TcpProxy:
    """Listens on a free loopback port and forwards to a target while it is entered.

    ::

        async with TcpProxy("127.0.0.1", 1883) as proxy:
            ...                                     # connect to proxy.host, proxy.port
            proxy.delay(0.2)                        # each way
            proxy.pause(Direction.TO_CLIENT)        # requests arrive, answers do not
            proxy.resume()
            await proxy.cut()                       # all connections, at once
            proxy.refuse()                          # new ones ...
            await proxy.accept()                    # ... until now, on the same port

    A direction that is not given means both. What it forwards may be TLS; it knows nothing of it.

    Args:
        host: the loopback address to listen on.
    """

    def __init__(self, target_host: str, target_port: int, port: int = 0, *, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = port
        self.connections = 0
        """Accepted so far."""
        self._target = (target_host, target_port)
        self._wires = {direction: _Wire() for direction in Direction}
        self._placeholder: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._active: dict[asyncio.Task[None], _Connection] = {}

    async def __aenter__(self) -> Self:
        self.resume()
        # Bound and no more, it keeps the port ours also while nobody listens.
        self._placeholder = _bind(self.host, self.port)
        self.port = self._placeholder.getsockname()[1]
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.refuse()
        await self.cut()
        if self._placeholder is not None:
            self._placeholder.close()

    @property
    def active(self) -> int:
        """Connections that are open now."""
        return len(self._active)

    def octets(self, direction: Direction) -> int:
        """Forwarded so far."""
        return self._wires[direction].octets

    def delay(self, seconds: float, *directions: Direction) -> None:
        """What comes in from now on goes out that much later; the throughput stays."""
        for wire in self._chosen(directions):
            wire.delay = seconds

    def slice(self, octets: int, *directions: Direction) -> None:
        """Writes at most so many octets at a time; 0: as they come."""
        for wire in self._chosen(directions):
            wire.slice = octets

    def pause(self, *directions: Direction) -> None:
        """Forwards nothing; connections stay open, and senders feel it once 4 MiB are held back."""
        for wire in self._chosen(directions):
            wire.open.clear()

    def resume(self, *directions: Direction) -> None:
        """Forwards again, beginning with what was held back."""
        for wire in self._chosen(directions):
            wire.open.set()

    def cut_after(self, octets: int, direction: Direction) -> None:
        """Resets the connection on which the last of so many more octets passes; once."""
        self._wires[direction].cut_after = octets

    def cut_new_after(self, octets: int | None, direction: Direction) -> None:
        """Resets each connection that is made from now on as soon as so many octets have passed; None: no more."""
        self._wires[direction].cut_new_after = octets

    async def cut(self) -> None:
        """Resets all connections; what is underway is lost. New ones are accepted as before."""
        active = dict(self._active)
        for task, connection in active.items():
            connection.reset()
            task.cancel()
        await asyncio.gather(*active, return_exceptions=True)

    def refuse(self) -> None:
        """Lets new connections be refused; open ones go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def accept(self) -> None:
        """Takes new connections again."""
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
            # Only cut() cancels us; it has reset the connection. Streams would log the cancellation as an error.
            connection.reset()
            await connection.closed()
        finally:
            del self._active[task]

    async def _forward(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        to_target, to_client = (self._wires[direction] for direction in Direction)
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
            connection.writers.append(target_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, target_writer, to_target))
                group.create_task(_pump(target_reader, connection.writers[0], to_client))
        except* (OSError, _Cut):
            # One side is gone, or never was there; the other one shall notice.
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
            # Whoever listens in this very loop shall see the slices, too.
            await asyncio.sleep(0)


class _Allowance:
    """How much may still pass in one direction of one connection."""

    def __init__(self, wire: _Wire) -> None:
        self.wire = wire
        self._own = wire.cut_new_after

    def take(self, octets: int) -> tuple[int, bool]:
        """How many of so many octets may pass, and whether the connection is to end then."""
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
        # Lets listener and placeholder share the port: Linux allows it while only one of them listens.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
