"""Every payload on the wire, as msgspec Structs encoded to JSON.

Facts are named in the past tense or as nouns, orders in the imperative. Unknown fields are ignored, so that old and
new versions meet; wrong types are refused. Times are RFC 3339 UTC with microseconds. ``offset``, ``rtt``,
``root_delay`` and ``root_dispersion`` are seconds; a positive offset means that the server's clock is ahead of ours.
"""

import hashlib
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from schema.names import IpVersion

UtcTime = Annotated[datetime, Meta(tz=True, description="RFC 3339, UTC, microseconds; a year from 2 to 9998")]
# A pattern's $ lets a line break follow, which a column of 26 characters or a topic does not: hence (?!\\n).
Ulid = Annotated[str, Meta(pattern="^[0-9A-HJKMNP-TV-Z]{26}(?!\\n)$")]
PairStatus = Literal["candidate", "testing", "active", "paused"]
MonitorStatus = Literal["pending", "testing", "active", "paused", "deleted"]
LogLevel = Literal["debug", "info", "warning", "error"]

MAX_VERSION = 100
"""Characters of an agent's version that are kept."""

_UNPRINTABLE = re.compile("[^ -~]")

LIVE: frozenset[MonitorStatus] = frozenset({"testing", "active"})
"""Global statuses in which a monitor probes."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What all payloads are: immutable, and compared by value."""


def _check_time(moment: datetime) -> None:
    """Refuses what has no place in the calendar once it is in UTC: the first and the last year of ``datetime``.

    Raises:
        ValueError: it is one of these; in a payload this makes it undecodable.
    """
    if not 2 <= moment.year <= 9998:
        raise ValueError("Expected a year from 2 to 9998")


# ---- results -------------------------------------------------------------------------------------------------------


class Result(Message, frozen=True, kw_only=True):
    """What one monitor measured of one server: the best of its samples, also when there was no usable one."""

    server_id: int
    ip: str
    ts: UtcTime
    """When the best sample was sent."""
    offset: float | None = None
    """Seconds; positive: the server is ahead. None without a usable reply."""
    rtt: float | None = None
    """Seconds between request and reply, without the time the server held it."""
    stratum: int | None = None
    leap: int | None = None
    """The two leap bits, 0 to 3."""
    error: str | None = None
    """``RATE``, ``DENY``, ``RSTR``, another kiss code, ``bad stratum N``, ``not synchronised``,
    ``root distance N s`` or ``network: ...``."""
    no_response: bool = False
    root_delay: float | None = None
    root_dispersion: float | None = None
    reference_id: str | None = None
    sent: int = 0
    """Samples sent."""
    received: int = 0
    """Samples answered."""

    def __post_init__(self) -> None:
        _check_time(self.ts)


class Batch(Message, frozen=True, kw_only=True):
    """Results of one monitor and protocol, stored together and acknowledged together."""

    id: Ulid
    version: str
    """The agent's version."""
    results: list[Result]


class Rejection(Message, frozen=True, kw_only=True):
    """One result of a batch that was not stored."""

    index: int
    """Place in the batch, from 0."""
    server_id: int
    reason: str


class BatchCommitted(Message, frozen=True, kw_only=True, tag_field="outcome", tag="committed"):
    """The batch is in the ledger; the agent may forget it."""

    batch: str
    stored: int
    rejected: list[Rejection] = []


class BatchRefused(Message, frozen=True, kw_only=True, tag_field="outcome", tag="refused"):
    """The batch cannot be decoded; sending it again does not help, the agent sets it aside."""

    batch: str
    reason: str


Ack = BatchCommitted | BatchRefused

# ---- what an agent is told -----------------------------------------------------------------------------------------


class Assignment(Message, frozen=True, kw_only=True):
    """Measure this server, this often."""

    server_id: int
    ip: str
    status: Literal["candidate", "testing", "active"]
    interval: Annotated[float, Meta(gt=0)]
    """Seconds between two probes of the server."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 123
    """UDP port; another than 123 in ``devel`` only."""


class ProtocolConfig(Message, frozen=True, kw_only=True):
    """How a monitor works on one protocol."""

    status: MonitorStatus
    ip: str | None = None
    """The address that the pool knows the monitor by."""
    nat_ip: str | None = None
    """The local address to send from when ``ip`` is translated on the way."""
    samples: Annotated[int, Meta(ge=1, le=10)] = 3
    """Samples of one probe."""
    base_checks: list[str] = []
    """Servers that the local clock is compared with before probing: addresses or names; with ``:port`` in ``devel``."""


class MonitorConfig(Message, frozen=True, kw_only=True):
    """All settings of an agent that the pool decides."""

    protocols: dict[IpVersion, ProtocolConfig] = {}
    log_level: LogLevel | None = None
    """None: as started."""


# ---- presence ------------------------------------------------------------------------------------------------------


class ProtocolState(Message, frozen=True, kw_only=True):
    """What an agent does on one protocol."""

    status: MonitorStatus
    probing: bool
    assignments: int
    """How many it holds."""
    assignments_hash: str
    """:func:`assignment_set_hash` of them, which the ledger's is compared with."""
    why_not: str | None = None
    """The reason, when it is not probing."""


class SpoolState(Message, frozen=True, kw_only=True):
    """What waits in an agent's spool, and what was lost there since it was made."""

    batches: int = 0
    bytes: int = 0
    dropped_results: int = 0
    """Results dropped because the spool was full or they were too old."""
    set_aside: int = 0
    """Batches that ingest refused."""


class Status(Message, frozen=True, kw_only=True):
    """An agent's presence. The last will carries ``online=False`` and nothing more."""

    online: bool
    ts: UtcTime | None = None
    """When it was written; the last will has none."""
    version: str = ""
    protocols: dict[IpVersion, ProtocolState] = {}
    spool: SpoolState = SpoolState()

    def __post_init__(self) -> None:
        if self.ts is not None:
            _check_time(self.ts)


class OlderVersion(Message, frozen=True, kw_only=True):
    """The version in an :class:`OlderStatus`."""

    number: str = msgspec.field(name="Version", default="")


class OlderStatus(Message, frozen=True, kw_only=True):
    """The presence of an agent of the pool's former kind, which is written in Go; its last will, too."""

    online: bool = msgspec.field(name="Online")
    version: OlderVersion = msgspec.field(name="Version", default=OlderVersion())
    ts: UtcTime | None = msgspec.field(name="UpdatedMQ", default=None)
    """When it was written; in the last will, when the agent started."""

    def __post_init__(self) -> None:
        if self.ts is not None:
            _check_time(self.ts)

    def as_status(self) -> Status:
        """The same, as today's agents say it. Such an agent says no goodbye: its offline message is the last will."""
        return Status(online=self.online, ts=self.ts if self.online else None, version=self.version.number)


# ---- requests and control ------------------------------------------------------------------------------------------


class AdHocRequest(Message, frozen=True, kw_only=True):
    """Answer once on ``data/{name}/{id}``: a measurement of ``ip``, or the agent's metrics."""

    id: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}(?!\\n)$")]
    ip: str | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] = 123
    samples: Annotated[int, Meta(ge=1, le=3)] = 1


class AdHocAnswer(Message, frozen=True, kw_only=True):
    """The answer to an :class:`AdHocRequest`."""

    id: str
    result: Result | None = None
    metrics: str | None = None
    """Prometheus text format."""
    error: str | None = None


class ControlCommand(Message, frozen=True, kw_only=True):
    """An order to a worker or an agent."""

    command: str
    server_id: int | None = None
    """The server it is about; None: all."""
    level: LogLevel | None = None
    """For ``log-level``."""


class ControlAnswer(Message, frozen=True, kw_only=True):
    """What became of an order."""

    ok: bool
    service: str
    command: str
    message: str = ""
    details: dict[str, Any] = {}


# ---- live stream ---------------------------------------------------------------------------------------------------


class ResultStored(Message, frozen=True, kw_only=True):
    """A result was committed and moved the score of its pair."""

    server_id: int
    monitor: str
    ts: UtcTime
    step: float
    score: float
    offset: float | None = None
    rtt: float | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        _check_time(self.ts)


class ScoreComputed(Message, frozen=True, kw_only=True):
    """A server's score was computed."""

    server_id: int
    scorer: str
    ts: UtcTime
    score: float

    def __post_init__(self) -> None:
        _check_time(self.ts)


class AssignmentChanged(Message, frozen=True, kw_only=True):
    """The selector moved a monitor of a server."""

    server_id: int
    monitor: str
    before: PairStatus
    after: PairStatus
    reason: str


class MessageRejected(Message, frozen=True, kw_only=True):
    """A message could not be decoded."""

    topic: str
    reason: str


M = TypeVar("M")
_encoder = msgspec.json.Encoder()
_QUOTED = re.compile("""^(Invalid [^'"]*?) ('.*'|".*")""", re.DOTALL)


class Undecodable(ValueError):
    """A payload that is not the message it should be; the text says where and why, never the payload itself."""


def encode(message: Message) -> bytes:
    """``message`` as JSON."""
    return _encoder.encode(message)


def decode(payload: bytes, message_type: type[M]) -> M:
    """The message in ``payload``.

    Raises:
        Undecodable: it is no JSON, or has other types than ``message_type``.
    """
    try:
        return msgspec.json.decode(payload, type=message_type)
    except msgspec.ValidationError as error:
        # Some of its texts quote the value, which may be long, a secret, or made to look like another line of the log.
        raise Undecodable(_QUOTED.sub(r"\1", str(error))) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable(str(error)) from error


def decode_status(payload: bytes) -> Status:
    """The presence in ``payload``, of whichever kind of agent; its version is cleaned (:func:`plain_version`).

    Raises:
        Undecodable: it is neither kind.
    """
    try:
        status = decode(payload, Status)
    except Undecodable as error:
        status = _older_status(payload, error)
    return msgspec.structs.replace(status, version=plain_version(status.version))


def _older_status(payload: bytes, not_todays: Undecodable) -> Status:
    try:
        return decode(payload, OlderStatus).as_status()
    except Undecodable as error:
        # Of a payload that says ``Online``, what is wrong with it; of any other, why it is no status of today's kind.
        raise (error if b'"Online"' in payload else not_todays) from None


def plain_version(version: str) -> str:
    """What is kept of an agent's version: printable ASCII, and not too much of it.

    A column of the pool's database may hold less than Unicode, and operators see it in their terminals.
    """
    return _UNPRINTABLE.sub("?", version[:MAX_VERSION])


def assignment_set_hash(assignments: Iterable[Assignment]) -> str:
    """A hash of a set of assignments that does not depend on their order: 32 hexadecimal digits.

    Agent and selector compare it to see whether they agree, so it covers every field that the agent acts on.
    """
    total = 0
    for a in assignments:
        line = f"{a.server_id} {a.ip} {a.port} {a.status} {a.interval:.3f}".encode()
        # A sum modulo 2^128 is order-free and, unlike xor, does not cancel repeated lines.
        total += int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "big")
    return f"{total % (1 << 128):032x}"
