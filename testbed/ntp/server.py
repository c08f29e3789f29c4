"""Run a fleet of simulated NTP servers in one process, each on a separate loopback address and port.

The accuracy is some µs: the kernel stamps requests, and replies are stamped as late as Python allows. Any further
deviation from the spec is thus the client's own error.
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
"""Linux, asm-generic/socket.h; Python 3.11 does not define it. The timestamp's control message has the same number."""
_TIMESPEC: Final = struct.Struct("@ll")
_NS: Final = 1_000_000_000
_RECEIVE_BUFFER: Final = 1 << 20
_MOST_AT_ONCE: Final = 64
"""Maximum number of datagrams to read from one socket before the others get their turn."""
_MOST_PENDING: Final = 20_000
"""Maximum number of waiting replies; further ones are dropped, as in a congested network."""

_STAMPED_WITHIN_MS: Final = 1000


class FleetError(Exception):
    """A server cannot listen at its address."""


@dataclass(slots=True)
class Counts:
    """Counters of one server."""

    requests: int = 0
    ignored: int = 0
    """Datagrams that are not requests."""
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
    """Run servers within the context.

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
        """The running servers, with the chosen ports where the port was 0."""
        return tuple(server.spec for server in self._servers.values())

    def counts(self, spec: ServerSpec) -> Counts:
        """Return the counters of the server at ``spec``'s address. Raises KeyError if there is none."""
        return self._servers[spec.address, spec.port].counts

    def apply(self, specs: Iterable[ServerSpec]) -> None:
        """Change the fleet to ``specs``: add, change and remove servers; unchanged ones are not disturbed.

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
        """Change fields of a running server's spec from the next request on; return the new spec."""
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
        """Stop all servers immediately; waiting replies are not sent."""
        for handle in self._pending:
            handle.cancel()
        self._pending.clear()
        for place in tuple(self._servers):
            self._remove(place)

    def _add(self, spec: ServerSpec) -> None:
        sock = _listen(spec.address, spec.port)
        spec = msgspec.structs.replace(spec, port=sock.getsockname()[1])
        # Each server has its own random generator, so that an added server does not change the others' behaviour.
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
    """Wait until the kernel stamps datagrams, which it starts some time after a first socket has asked for it.

    Earlier datagrams are stamped when they are read. The wait ends even if the kernel never starts.
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
    _log.warning("the kernel does not stamp datagrams: simulated servers are less accurate")


def _arrival_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """Return the kernel's timestamp, in ns since 1970."""
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
            # As little code as possible between reading the clock and sending.
            server.sock.sendto(reply.datagram(time.time_ns()), client)
    except OSError:
        # A buffer is full, or the server has been removed: the datagram is lost, as in a network.
        server.counts.dropped += 1
    else:
        server.counts.replies += 1


def _advice(error: OSError) -> str:
    return " (ports below 1024 need root)" if isinstance(error, PermissionError) else ""
