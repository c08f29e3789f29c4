"""Compute a simulated server's replies and their times: pure functions of a spec, a request and its arrival.

The simulated network is between this machine's kernel and the simulated server. A request that arrives here at A
reaches the server at A + f (f: the forward delay), and a reply that reaches the client at S left the server at S - b
(b: the backward delay). The server's clock is the true time plus the offset o. So

    T2 = A + f + o        T3 = S - b + o

and a client, for whom T1 = A and T4 = S but for the loopback interface's own few µs, computes

    ((T2 - T1) + (T3 - T4)) / 2 = o + (f - b) / 2        (T4 - T1) - (T3 - T2) = f + b

which is exact whenever the reply is actually sent: a late timer changes neither.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from testbed.ntp.packets import (
    MODE_BROADCAST,
    MODE_SERVER,
    PACKET_SIZE,
    Header,
    Request,
    pack_header,
    pack_timestamp,
    timestamp,
)
from testbed.ntp.spec import Behaviour, ServerSpec, reference_octets

_NS: Final = 1_000_000_000
_SHORT_SIZE: Final = 44
_REFERENCE_AGE_NS: Final = 16 * _NS
"""Age of a server's last clock update."""
_ORIGIN_CHANGE: Final = 1 << 31
"""Half a second: a client that compares only whole seconds would not notice it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A datagram, complete but for its transmit timestamp, which is taken when it is sent."""

    due_ns: int
    """When to send it, in ns since 1970, true time."""
    head: bytes
    clock_ns: int | None
    """Difference between the transmit timestamp and the true time of sending; None: the timestamp is zero."""
    size: int = PACKET_SIZE
    other_port: bool = False

    def datagram(self, now_ns: int) -> bytes:
        """Return the datagram to send at ``now_ns``, true time since 1970."""
        transmit = bytes(8) if self.clock_ns is None else pack_timestamp(now_ns + self.clock_ns)
        return (self.head + transmit)[: self.size]


def answer(spec: ServerSpec, request: Request, arrival_ns: int, random: Random) -> tuple[Reply, ...]:
    """Return the replies to a request that arrived at ``arrival_ns`` (ns since 1970, true time)."""
    if random.random() < spec.loss or spec.behaviour is Behaviour.SILENT:
        return ()
    forward = _ns(spec.delay + spec.asymmetry + _jitter(spec, random))
    backward = _ns(spec.delay + _jitter(spec, random))
    offset = _ns(spec.offset)
    kiss = bool(spec.kiss) and random.random() < spec.kiss_share
    proper = _Proper(spec, request, arrival_ns + forward + offset, offset - backward + _ns(spec.hold))
    due = arrival_ns + forward + backward
    return tuple(proper.replies(due, kiss))


@dataclass(frozen=True, slots=True)
class _Proper:
    """The correct answer, from which each wrong one differs in one respect."""

    spec: ServerSpec
    request: Request
    receive_ns: int
    clock_ns: int

    def replies(self, due: int, kiss: bool) -> Iterator[Reply]:
        regular = Reply(due, self.head(kiss=self.spec.kiss if kiss else ""), self.clock_ns)
        match self.spec.behaviour:
            case Behaviour.NORMAL:
                yield regular
                return
            case Behaviour.DUPLICATE:
                yield regular
                yield regular
                return
            case Behaviour.SHORT:
                yield Reply(due, regular.head, self.clock_ns, size=_SHORT_SIZE)
            case Behaviour.WRONG_MODE:
                yield Reply(due, self.head(mode=MODE_BROADCAST), self.clock_ns)
            case Behaviour.WRONG_ORIGIN:
                yield Reply(due, self.head(origin_change=_ORIGIN_CHANGE), self.clock_ns)
            case Behaviour.WRONG_SOURCE:
                yield Reply(due, regular.head, self.clock_ns, other_port=True)
            case Behaviour.ZERO_TRANSMIT:
                yield Reply(due, regular.head, None)
            case Behaviour.FORGED_KISS:
                yield Reply(due, self.head(kiss="DENY", origin_change=_ORIGIN_CHANGE), self.clock_ns)
        if self.spec.then_answer:
            yield regular

    def head(self, kiss: str = "", mode: int = MODE_SERVER, origin_change: int = 0) -> bytes:
        spec = self.spec
        return pack_header(
            Header(
                leap=3 if kiss else spec.leap,
                version=self.request.version,
                mode=mode,
                stratum=0 if kiss else spec.stratum,
                poll=self.request.poll,
                root_delay=spec.root_delay,
                root_dispersion=spec.root_dispersion,
                reference_id=reference_octets(kiss or spec.reference_id) or bytes(4),
                reference=timestamp(self.receive_ns - _REFERENCE_AGE_NS),
                origin=self.request.transmit ^ origin_change,
                receive=timestamp(self.receive_ns),
            )
        )


def _jitter(spec: ServerSpec, random: Random) -> float:
    return abs(random.gauss(0.0, spec.jitter)) if spec.jitter else 0.0


def _ns(seconds: float) -> int:
    return round(seconds * _NS)
