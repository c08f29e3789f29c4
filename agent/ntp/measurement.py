"""One exchange as data: its offset and round-trip time, what is wrong with it, the best of several, and the result.

Nothing is thrown away: a bad answer keeps its numbers and gets an error beside them.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from agent.ntp.packet import Reply, kiss_code, reference_text
from agent.ntp.timestamps import Timestamp, difference, to_seconds, utc_from_unix_ns
from schema.messages import Result


class Measurement(msgspec.Struct, frozen=True, gc=False):
    """What the four timestamps say."""

    offset: float
    """Seconds; positive: the server's clock is ahead of ours."""
    rtt: float
    """Seconds on the way, both directions, without the time that the server held the request. Never negative, never
    more than we waited."""
    consistent: bool = True
    """Whether the timestamps can be true: the server held the request for a time not below zero and no longer than we
    waited. Else offset and round-trip time are guesses."""


def measure(t1: Timestamp, t2: Timestamp, t3: Timestamp, t4: Timestamp) -> Measurement | None:
    """The measurement, or None when the server left out one of its timestamps (zero).

    Args:
        t1: our clock when the request left.
        t2: the server's clock when it arrived.
        t3: the server's clock when the reply left.
        t4: our clock when it arrived.
    """
    if t2 == 0 or t3 == 0:
        return None
    there, back = difference(t2, t1), difference(t3, t4)
    elapsed, held = difference(t4, t1), difference(t3, t2)
    return Measurement(
        offset=to_seconds((there + back) / 2),
        rtt=to_seconds(min(max(0, elapsed - held), max(0, elapsed))),
        consistent=0 <= held <= elapsed,
    )


class Ignored(msgspec.Struct, gc=False):
    """Packets that arrived while we waited and were not the answer."""

    short: int = 0
    mode: int = 0
    """Not from a server."""
    origin: int = 0
    """Without our cookie: late, repeated or forged, kiss codes included."""
    source: int = 0
    """From another address or port."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one request."""

    sent_at: int
    """When it left: Unix time in nanoseconds."""
    reply: Reply | None = None
    measurement: Measurement | None = None
    """None without a reply, or when the reply says no time."""
    network_error: str | None = None
    """Why the operating system gave up; None when nobody answered."""
    ours: bool = False
    """This host could not send, such as without a route or with too many open files: it says nothing of the server."""
    kernel_stamps: bool = True
    """Whether the kernel said when the reply arrived; otherwise the interpreter did, some time later."""
    ignored: Ignored = msgspec.field(default_factory=Ignored)

    @property
    def error(self) -> str | None:
        """``network: ...``, the verdict on the reply, or None."""
        if self.network_error is not None:
            return f"network: {self.network_error}"
        return None if self.reply is None else judge(self.reply)

    @property
    def rtt(self) -> float | None:
        """Seconds; None without a measurement."""
        return None if self.measurement is None else self.measurement.rtt

    @property
    def offset(self) -> float | None:
        """Seconds, positive: the server is ahead; None without a measurement that means something."""
        return None if self.measurement is None or drops_offset(self.error) else self.measurement.offset

    @property
    def kissed(self) -> bool:
        """Whether the server asks not to be asked again."""
        return self.reply is not None and kiss_code(self.reply) is not None


def best(samples: Sequence[Sample]) -> Sample:
    """The sample that says most.

    No error before error, an answer before none, timestamps that can be true before others, then the lowest
    round-trip time.
    """
    return min(samples, key=_rank)


def _rank(sample: Sample) -> tuple[int, int, float]:
    measured = sample.measurement
    if sample.reply is None:
        # Silence is last: a server was not asked as often as it should have been if one request could not be sent.
        return (4 if sample.network_error is None else 3 if sample.ours else 2), 0, 0.0
    truth = 2 if measured is None else 0 if measured.consistent else 1
    return (0 if sample.error is None else 1), truth, 0.0 if measured is None else measured.rtt


def to_result(server_id: int, ip: str, samples: Sequence[Sample]) -> Result:
    """What the pool is told of a series of at least one sample."""
    chosen = best(samples)
    reply = chosen.reply
    return Result(
        server_id=server_id,
        ip=ip,
        ts=utc_from_unix_ns(chosen.sent_at),
        offset=chosen.offset,
        rtt=chosen.rtt,
        stratum=None if reply is None else reply.stratum,
        leap=None if reply is None else reply.leap,
        error=chosen.error,
        no_response=reply is None,
        root_delay=None if reply is None else reply.root_delay,
        root_dispersion=None if reply is None else reply.root_dispersion,
        reference_id=None if reply is None else reference_text(reply),
        sent=sum(1 for sample in samples if not sample.ours),
        received=sum(1 for sample in samples if sample.reply is not None),
    )


MAX_STRATUM: Final = 10
"""A server further from its reference than this is not one that the pool hands out."""


NOT_SYNCHRONISED: Final = 3
"""The leap indicator of a server that does not know the time itself."""

MAX_ROOT_DISTANCE: Final = 3.0
"""Seconds. No common client follows a server that may be further off: chronyd's limit is 3 s, ntpd's 1.5 s."""


def judge(reply: Reply) -> str | None:
    """What is wrong with a reply that came from the server we asked, or None.

    A kiss code, ``bad stratum N``, ``not synchronised`` or ``root distance N s``.
    """
    if code := kiss_code(reply):
        return code
    if not 1 <= reply.stratum <= MAX_STRATUM:
        return f"bad stratum {reply.stratum}"
    if reply.leap == NOT_SYNCHRONISED:
        return "not synchronised"
    if (distance := root_distance(reply)) > MAX_ROOT_DISTANCE:
        return f"root distance {distance:.1f} s"
    return None


def root_distance(reply: Reply) -> float:
    """Seconds by which the server itself may be wrong (RFC 5905, section 11.2, without the way to us)."""
    return reply.root_delay / 2 + reply.root_dispersion


def drops_offset(error: str | None) -> bool:
    """Whether the timestamps beside ``error`` mean nothing: a server that limits our rate does not tell the time."""
    return error == "RATE"
