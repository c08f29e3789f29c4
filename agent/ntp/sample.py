"""One exchange as data, the best of several, and the result that goes to the pool."""

from collections.abc import Sequence

import msgspec

from agent.ntp.offset import Measurement
from agent.ntp.packet import Reply, kiss_code, reference_text
from agent.ntp.timestamps import utc_from_unix_ns
from agent.ntp.validate import drops_offset, judge
from schema.messages import Result


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
