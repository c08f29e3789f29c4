"""A fleet of simulated NTP servers in one process, each on its own loopback address and port.

Accurate to some µs: requests are stamped by the kernel, replies as late as Python allows, so that what a client
measures beyond the spec is the client's own error.
"""

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Final, Self

import msgspec

from testbed.ntp.answers import Reply, answer
from testbed.ntp.packets import parse_request
from testbed.ntp.spec import ServerSpec

_log = logging.getLogger(__name__)

_SO_TIMESTAMPNS: Final = 35
"""Linux, asm-generic/socket.h; Python 3.11 has no name for it. The same number marks the stamp that comes back."""
_TIMESPEC: Final = struct.Struct("@ll")
_NS: Final = 1_000_000_000
_RECEIVE_BUFFER: Final = 1 << 20
_MOST_AT_ONCE: Final = 64
"""Datagrams read from one socket before the others have their turn."""
_MOST_PENDING: Final = 20_000
"""Replies that wait for their time; what comes beyond that is dropped, as a full network would."""

_STAMPED_WITHIN_MS: Final = 1000


class FleetError(Exception):
    """A server cannot listen where it should."""


@dataclass(slots=True)
class Counts:
    """What one server has seen and done so far."""

    requests: int = 0
    ignored: int = 0
    """Datagrams that were no request."""
    replies: int = 0
    dropped: int = 0
    """Replies that could not be sent."""


@dataclass(slots=True, eq=False)
class _Server:
    spec: ServerSpec
    sock: socket.socket
    random: Random
    counts: Counts = field(default_factory=Counts)


class Fleet:
    """Runs servers while it is entered.

    ::

        async with Fleet([ServerSpec(address="127.9.0.1", port=0, offset=0.4)]) as fleet:
            port = fleet.specs[0].port
    """

    def __init__(self, specs: Iterable[ServerSpec], seed: int = 0) -> None:
        self._wanted = tuple(specs)
        self._seed = seed
        self._servers: dict[tuple[str, int], _Server] = {}
        self._pending: set[asyncio.TimerHandle] = set()

    @property
    def specs(self) -> tuple[ServerSpec, ...]:
        """What runs now, with the ports that were chosen where the port was 0."""
        return tuple(server.spec for server in self._servers.values())

    def counts(self, spec: ServerSpec) -> Counts:
        """Of the server that listens where ``spec`` says. Raises KeyError if none does."""
        return self._servers[spec.address, spec.port].counts

    def apply(self, specs: Iterable[ServerSpec]) -> None:
        """Makes the fleet what ``specs`` say: servers appear, change and go; who is unchanged notices nothing.

        Raises FleetError if a server cannot listen; the others run nevertheless.
        """
        wanted = tuple(specs)
        places = {(spec.address, spec.port) for spec in wanted}
        for place in self._servers.keys() - places:
            self._remove(place)
        failed = []
        for spec in wanted:
            running = self._servers.get((spec.address, spec.port))
            if running is not None:
                running.spec = spec
                continue
            try:
                self._add(spec)
            except OSError as error:
                failed.append(f"{spec.address} port {spec.port}: {error.strerror}{_advice(error)}")
        if failed:
            raise FleetError(f"cannot listen on {', '.join(failed)}")

    def replace(self, old: ServerSpec, **changes: object) -> ServerSpec:
        """Changes fields of one running server's spec from the next request on, and returns the new spec."""
        server = self._servers[old.address, old.port]
        server.spec = msgspec.structs.replace(server.spec, **changes)
        return server.spec

    async def __aenter__(self) -> Self:
        try:
            self.apply(self._wanted)
            await _until_stamped()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops all servers at once; replies that wait for their time are not sent."""
        for handle in self._pending:
            handle.cancel()
        self._pending.clear()
        for place in tuple(self._servers):
            self._remove(place)

    def _add(self, spec: ServerSpec) -> None:
        sock = _listen(spec.address, spec.port)
        spec = msgspec.structs.replace(spec, port=sock.getsockname()[1])
        # Each server has its own randomness, so that adding one does not change what the others do.
        server = _Server(spec, sock, Random(f"{self._seed} {spec.address} {spec.port}"))
        self._servers[spec.address, spec.port] = server
        asyncio.get_running_loop().add_reader(sock, self._read, server)

    def _remove(self, place: tuple[str, int]) -> None:
        server = self._servers.pop(place)
        asyncio.get_running_loop().remove_reader(server.sock)
        server.sock.close()

    def _read(self, server: _Server) -> None:
        for _ in range(_MOST_AT_ONCE):
            try:
                data, ancillary, _, client = server.sock.recvmsg(512, socket.CMSG_SPACE(_TIMESPEC.size))
            except BlockingIOError:
                return
            except OSError as error:
                _log.warning("%s port %d: %s", server.spec.address, server.spec.port, error)
                return
            self._take(server, data, _arrival_ns(ancillary), client)

    def _take(self, server: _Server, data: bytes, arrival_ns: int, client: tuple[object, ...]) -> None:
        request = parse_request(data)
        if request is None:
            server.counts.ignored += 1
            return
        server.counts.requests += 1
        for reply in answer(server.spec, request, arrival_ns, server.random):
            self._schedule(server, reply, client)

    def _schedule(self, server: _Server, reply: Reply, client: tuple[object, ...]) -> None:
        wait = (reply.due_ns - time.time_ns()) / _NS
        if wait <= 0:
            _send(server, reply, client)
        elif len(self._pending) >= _MOST_PENDING:
            server.counts.dropped += 1
        else:
            loop = asyncio.get_running_loop()
            handle: asyncio.TimerHandle

            def send() -> None:
                self._pending.discard(handle)
                _send(server, reply, client)

            handle = loop.call_later(wait, send)
            self._pending.add(handle)


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


async def _until_stamped() -> None:
    """Returns when the kernel stamps what arrives, which it begins some time after a first socket has asked for it.

    A datagram that came before that is stamped when it is read. A kernel that never does is not waited for.
    """
    with _listen("127.0.0.1", 0) as sock:
        for _ in range(_STAMPED_WITHIN_MS):
            sock.sendto(b"?", sock.getsockname())
            await asyncio.sleep(0.001)
            looked_at = time.time_ns()
            with contextlib.suppress(BlockingIOError):  # on a busy machine it may take longer
                _, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(_TIMESPEC.size))
                if _arrival_ns(ancillary) < looked_at:
                    return
    _log.warning("the kernel does not stamp what arrives: simulated servers are less exact than they could be")


def _arrival_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The kernel's stamp, ns since 1970."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, ns = _TIMESPEC.unpack_from(data)
            return int(seconds * _NS + ns)
    return time.time_ns()


def _send(server: _Server, reply: Reply, client: tuple[object, ...]) -> None:
    try:
        if reply.other_port:
            with _listen(server.spec.address, 0) as other:
                other.sendto(reply.datagram(time.time_ns()), client)
        else:
            # Nothing between the clock and the datagram that need not be there.
            server.sock.sendto(reply.datagram(time.time_ns()), client)
    except OSError:
        # The client's buffer or ours is full, or the server has been removed: lost, as on a network.
        server.counts.dropped += 1
    else:
        server.counts.replies += 1


def _advice(error: OSError) -> str:
    return " (ports below 1024 need root)" if isinstance(error, PermissionError) else ""
