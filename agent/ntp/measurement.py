"""Evaluate an exchange: its offset and round-trip time, its errors, the best of several samples, and the result.

Nothing is discarded: a bad answer keeps its numbers and gets an error in addition.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from agent.ntp.packet import Reply, kiss_code, reference_text
from agent.ntp.timestamps import Timestamp, difference, to_seconds, utc_from_unix_ns
from schema.messages import Result


class Measurement(msgspec.Struct, frozen=True, gc=False):
    """The evaluation of the four timestamps."""

    offset: float
    """Seconds; positive if the server's clock is ahead of ours."""
    rtt: float
    """Network round-trip time in seconds, without the time that the server held the request. Never negative, and never
    more than the elapsed time."""
    consistent: bool = True
    """The timestamps are plausible: the server held the request for a time that is neither negative nor longer than the
    elapsed time. Otherwise offset and round-trip time are guesses."""


def measure(t1: Timestamp, t2: Timestamp, t3: Timestamp, t4: Timestamp) -> Measurement | None:
    """Return the measurement, or ``None`` if the server left out one of its timestamps (zero).

    Args:
        t1: our clock when the request was sent.
        t2: the server's clock when it arrived.
        t3: the server's clock when the reply was sent.
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
    """Packets other than the answer that arrived in the meantime."""

    short: int = 0
    mode: int = 0
    """Not from a server."""
    origin: int = 0
    """Without our cookie: late, repeated or forged, including kiss codes."""
    source: int = 0
    """From another address or port."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one request."""

    sent_at: int
    """Send time: Unix time in nanoseconds."""
    reply: Reply | None = None
    measurement: Measurement | None = None
    """``None`` without a reply, or if the reply has no time."""
    network_error: str | None = None
    """The operating system's error; ``None`` if there was no answer."""
    ours: bool = False
    """This host could not send, for example without a route or with too many open files: no statement about the
    server."""
    kernel_stamps: bool = True
    """The kernel timestamped the arrival of the reply; otherwise the interpreter did, some time later."""
    ignored: Ignored = msgspec.field(default_factory=Ignored)

    @property
    def error(self) -> str | None:
        """Return ``network: ...``, the verdict on the reply, or ``None``."""
        if self.network_error is not None:
            return f"network: {self.network_error}"
        return None if self.reply is None else judge(self.reply)

    @property
    def rtt(self) -> float | None:
        """Return the round-trip time in seconds; ``None`` without a measurement."""
        return None if self.measurement is None else self.measurement.rtt

    @property
    def offset(self) -> float | None:
        """Return the offset in seconds, positive if the server is ahead; ``None`` without a valid measurement."""
        return None if self.measurement is None or drops_offset(self.error) else self.measurement.offset

    @property
    def kissed(self) -> bool:
        """Return whether the server asks not to be queried again."""
        return self.reply is not None and kiss_code(self.reply) is not None


def best(samples: Sequence[Sample]) -> Sample:
    """Return the most meaningful sample.

    The order is: no error before error, an answer before none, plausible timestamps before others, then the lowest
    round-trip time.
    """
    return min(samples, key=_rank)


def _rank(sample: Sample) -> tuple[int, int, float]:
    measured = sample.measurement
    if sample.reply is None:
        # Silence ranks last: if a request could not be sent, the server was asked less often than planned.
        return (4 if sample.network_error is None else 3 if sample.ours else 2), 0, 0.0
    truth = 2 if measured is None else 0 if measured.consistent else 1
    return (0 if sample.error is None else 1), truth, 0.0 if measured is None else measured.rtt


def to_result(server_id: int, ip: str, samples: Sequence[Sample]) -> Result:
    """Return the result to publish for a series of at least one sample."""
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
"""The pool hands out no server with a higher stratum than this."""


NOT_SYNCHRONISED: Final = 3
"""The leap indicator of a server that is not synchronised."""

MAX_ROOT_DISTANCE: Final = 3.0
"""Seconds. No common client follows a server that may be further off: chronyd's limit is 3 s, ntpd's 1.5 s."""


def judge(reply: Reply) -> str | None:
    """Return the error of a reply that came from the server we asked, or ``None``.

    This is a kiss code, ``bad stratum N``, ``not synchronised`` or ``root distance N s``.
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
    """Return the seconds by which the server itself may be wrong (RFC 5905, section 11.2, without the path to us)."""
    return reply.root_delay / 2 + reply.root_dispersion


def drops_offset(error: str | None) -> bool:
    """Return whether ``error`` invalidates the timestamps: a server that limits our rate does not report the time."""
    return error == "RATE"
