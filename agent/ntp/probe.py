"""Query a server: one request and its answer over the network, and a series of them.

An exchange reads until the answer arrives or the time-out expires. Other packets are counted and ignored.
"""

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from agent.ntp.measurement import Ignored, Sample, measure
from agent.ntp.packet import COOKIE_SIZE, SERVER_MODE, Reply, parse, request
from agent.ntp.targets import Target
from agent.ntp.timestamps import from_unix_ns
from agent.ntp.udp import Datagram, UdpSocket

TIMEOUT: Final = 3.0
"""Seconds to wait for the answer."""

_MOST_AT_ONCE: Final = 50
"""Maximum number of packets read in one go: a flood on one socket must not block the others."""


class _Answer(msgspec.Struct, frozen=True):
    datagram: Datagram
    reply: Reply


class _Waiting:
    """Filter the packets that arrive on a socket until the answer is among them."""

    def __init__(self, udp: UdpSocket, cookie: bytes, done: "asyncio.Future[_Answer]") -> None:
        self._udp = udp
        self._cookie = cookie
        self._done = done
        self.ignored = Ignored()

    def readable(self) -> None:
        """Handle a readable socket."""
        self._udp.sent_at()  # drains the queue of transmit timestamps, which also makes the socket readable
        try:
            for _ in range(_MOST_AT_ONCE):
                datagram = self._udp.receive()
                if datagram is None or self._done.done():
                    return
                reply = self._sort_out(datagram)
                if reply is not None:
                    self._done.set_result(_Answer(datagram, reply))
                    return
        except OSError as error:
            if not self._done.done():
                self._done.set_exception(error)

    def _sort_out(self, datagram: Datagram) -> Reply | None:
        if datagram.source != self._udp.peer:
            self.ignored.source += 1  # it came before the socket was connected
            return None
        reply = parse(datagram.data)
        if reply is None:
            self.ignored.short += 1
        elif reply.mode != SERVER_MODE:
            self.ignored.mode += 1
        elif reply.origin != self._cookie:
            self.ignored.origin += 1
        else:
            return reply
        return None


class Source:
    """The local address to send from, as configured by the pool."""

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.foreign = False
        """The address turned out not to belong to this host, most likely because of a NAT."""


async def exchange(target: Target, source: Source, timeout: float = TIMEOUT) -> Sample:
    """Query ``target`` once and wait for the answer, at most ``timeout`` seconds."""
    try:
        with UdpSocket((target.ip, target.port), source.address) as udp:
            source.foreign = source.foreign or udp.source_is_foreign
            return await _ask(udp, timeout)
    except OSError as error:
        # Nothing was sent, so the error comes from this host: no route, no such link, a firewall, no more sockets.
        return Sample(sent_at=time.time_ns(), network_error=describe(error), ours=True)


async def _ask(udp: UdpSocket, timeout: float) -> Sample:
    loop = asyncio.get_running_loop()
    cookie = os.urandom(COOKIE_SIZE)
    packet = request(cookie)
    answered: asyncio.Future[_Answer] = loop.create_future()
    waiting = _Waiting(udp, cookie, answered)
    loop.add_reader(udp.fileno(), waiting.readable)
    try:
        try:
            udp.send(packet)
        except OSError as error:
            return Sample(sent_at=udp.sent_at(), network_error=describe(error), ours=True, ignored=waiting.ignored)
        # Not asyncio.timeout: after a stall both the answer and the deadline are due, and the answer must win.
        await asyncio.wait({answered}, timeout=timeout)
        if not answered.done():
            return Sample(sent_at=udp.sent_at(), ignored=waiting.ignored)
        answer = answered.result()
    except OSError as error:
        # An ICMP message from the server or a router, unless only this host can cause the error.
        ours = error.errno in _OURS
        return Sample(sent_at=udp.sent_at(), network_error=describe(error), ours=ours, ignored=waiting.ignored)
    finally:
        loop.remove_reader(udp.fileno())
    return _sample(udp.sent_at(), answer, waiting.ignored)


def _sample(sent_at: int, answer: _Answer, ignored: Ignored) -> Sample:
    datagram, reply = answer.datagram, answer.reply
    measurement = measure(from_unix_ns(sent_at), reply.received, reply.transmitted, from_unix_ns(datagram.at))
    return Sample(
        sent_at=sent_at, reply=reply, measurement=measurement, kernel_stamps=datagram.by_kernel, ignored=ignored
    )


_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENETDOWN})

_WORDS: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.ENETUNREACH: "network unreachable",
    errno.EHOSTUNREACH: "host unreachable",
    errno.EACCES: "not permitted",
    errno.EPERM: "not permitted",
    errno.ENETDOWN: "network down",
    errno.EADDRNOTAVAIL: "address not available",
    errno.ENOBUFS: "no buffer space",
    errno.EMFILE: "too many open files",
}


def describe(error: OSError) -> str:
    """Describe a network error in words that are the same on every host."""
    return _WORDS.get(error.errno or 0) or (error.strerror or str(error)).lower()


SPACING: Final = 2.0
"""Minimum seconds between two requests to the same server: servers limit the rate of faster ones."""

Ask = Callable[[], Awaitable[Sample]]


async def series(
    ask: Ask,
    samples: int,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> list[Sample]:
    """Send up to ``samples`` requests, at least :data:`SPACING` apart; a kiss-o'-death ends the series."""
    taken: list[Sample] = []
    while True:
        began = clock()
        taken.append(await ask())
        if len(taken) >= samples or taken[-1].kissed:
            return taken
        # Measured from the request, no matter how long the answer took.
        await sleep(max(0.0, began + SPACING - clock()))


async def probe(target: Target, source: Source, samples: int, timeout: float = TIMEOUT) -> list[Sample]:
    """Perform a series of exchanges with ``target``, each waiting at most ``timeout`` seconds."""
    return await series(lambda: exchange(target, source, timeout), samples)
