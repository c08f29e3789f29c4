"""Define every payload on the wire, as msgspec Structs encoded to JSON.

Facts are named in the past tense or as nouns, commands in the imperative. Unknown fields are ignored, so that old and
new versions work together; wrong types are refused. Times are RFC 3339 UTC with microseconds. ``offset``, ``rtt``,
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
# A pattern's $ also matches before a final line break, which no column or topic can hold: hence (?!\\n).
Ulid = Annotated[str, Meta(pattern="^[0-9A-HJKMNP-TV-Z]{26}(?!\\n)$")]
PairStatus = Literal["candidate", "testing", "active", "paused"]
MonitorStatus = Literal["pending", "testing", "active", "paused", "deleted"]
LogLevel = Literal["debug", "info", "warning", "error"]

MAX_VERSION = 100
"""Number of characters of an agent's version that are kept."""

_UNPRINTABLE = re.compile("[^ -~]")

LIVE: frozenset[MonitorStatus] = frozenset({"testing", "active"})
"""Global statuses in which a monitor probes."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all payloads: immutable, and compared by value."""


def _check_time(moment: datetime) -> None:
    """Refuse times that may leave the range of ``datetime`` when converted to UTC: its first and last year.

    Raises:
        ValueError: the year is not 2 to 9998; in a payload this makes it undecodable.
    """
    if not 2 <= moment.year <= 9998:
        raise ValueError("Expected a year from 2 to 9998")


# ---- results -------------------------------------------------------------------------------------------------------


class Result(Message, frozen=True, kw_only=True):
    """One monitor's measurement of one server: the best of its samples, even if none is usable."""

    server_id: int
    ip: str
    ts: UtcTime
    """Send time of the best sample."""
    offset: float | None = None
    """Seconds; positive if the server is ahead. None without a usable reply."""
    rtt: float | None = None
    """Seconds between request and reply, without the time for which the server held it."""
    stratum: int | None = None
    leap: int | None = None
    """The two leap bits, 0 to 3."""
    error: str | None = None
    """``RATE``, ``DENY``, ``RSTR``, another kiss code, ``bad stratum N``, ``not synchronised``, ``root distance N s``
    or ``network: ...``."""
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
    """Position in the batch, from 0."""
    server_id: int
    reason: str


class BatchCommitted(Message, frozen=True, kw_only=True, tag_field="outcome", tag="committed"):
    """The batch is in the ledger; the agent may delete it."""

    batch: str
    stored: int
    rejected: list[Rejection] = []


class BatchRefused(Message, frozen=True, kw_only=True, tag_field="outcome", tag="refused"):
    """The batch cannot be decoded; the agent sets it aside, since a retry does not help."""

    batch: str
    reason: str


Ack = BatchCommitted | BatchRefused

# ---- assignments and configuration ---------------------------------------------------------------------------------


class Assignment(Message, frozen=True, kw_only=True):
    """Measure this server at this interval."""

    server_id: int
    ip: str
    status: Literal["candidate", "testing", "active"]
    interval: Annotated[float, Meta(gt=0)]
    """Seconds between two probes of the server."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 123
    """UDP port; must be 123 outside ``devel``."""


class ProtocolConfig(Message, frozen=True, kw_only=True):
    """The configuration of a monitor for one protocol."""

    status: MonitorStatus
    ip: str | None = None
    """The address under which the pool knows the monitor."""
    nat_ip: str | None = None
    """The local address to send from if ``ip`` is translated by a NAT."""
    samples: Annotated[int, Meta(ge=1, le=10)] = 3
    """Samples per probe."""
    base_checks: list[str] = []
    """Servers against which the local clock is checked before probing: addresses or names; with ``:port`` in
    ``devel``."""


class MonitorConfig(Message, frozen=True, kw_only=True):
    """All settings of an agent that the pool controls."""

    protocols: dict[IpVersion, ProtocolConfig] = {}
    log_level: LogLevel | None = None
    """None: the level from the agent's own settings."""


# ---- presence ------------------------------------------------------------------------------------------------------


class ProtocolState(Message, frozen=True, kw_only=True):
    """The state of an agent for one protocol."""

    status: MonitorStatus
    probing: bool
    assignments: int
    """Number of assignments that it holds."""
    assignments_hash: str
    """Their :func:`assignment_set_hash`, which is compared with that of the ledger."""
    why_not: str | None = None
    """The reason why it is not probing."""


class SpoolState(Message, frozen=True, kw_only=True):
    """The content of an agent's spool, and its losses since it was created."""

    batches: int = 0
    bytes: int = 0
    dropped_results: int = 0
    """Results dropped because the spool was full or they were too old."""
    set_aside: int = 0
    """Batches that ingest refused."""


class Status(Message, frozen=True, kw_only=True):
    """An agent's presence. The last will contains ``online=False`` and nothing else."""

    online: bool
    ts: UtcTime | None = None
    """Time of writing; the last will has none."""
    version: str = ""
    protocols: dict[IpVersion, ProtocolState] = {}
    spool: SpoolState = SpoolState()
    traceroute: bool = False
    """Whether it can be asked for the route to an address: its host has a program for that."""

    def __post_init__(self) -> None:
        if self.ts is not None:
            _check_time(self.ts)


class OlderVersion(Message, frozen=True, kw_only=True):
    """The version in an :class:`OlderStatus`."""

    number: str = msgspec.field(name="Version", default="")


class OlderStatus(Message, frozen=True, kw_only=True):
    """The presence of the pool's older agent, written in Go; also its last will."""

    online: bool = msgspec.field(name="Online")
    version: OlderVersion = msgspec.field(name="Version", default=OlderVersion())
    ts: UtcTime | None = msgspec.field(name="UpdatedMQ", default=None)
    """Time of writing; in the last will, the time when the agent started."""

    def __post_init__(self) -> None:
        if self.ts is not None:
            _check_time(self.ts)

    def as_status(self) -> Status:
        """Convert to today's format. The older agent publishes no offline status itself, so one is its last will."""
        return Status(online=self.online, ts=self.ts if self.online else None, version=self.version.number)


# ---- requests and control ------------------------------------------------------------------------------------------


class AdHocRequest(Message, frozen=True, kw_only=True):
    """Answer once on ``data/{name}/{id}``: with a measurement of ``ip``, the route to it, or the agent's metrics."""

    id: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}(?!\\n)$")]
    ip: str | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] = 123
    samples: Annotated[int, Meta(ge=1, le=3)] = 1


MAX_HOPS = 30
"""Hops of a route that are tried, as most programs do."""

MAX_HOP_PROBES = 3
"""Packets for each hop."""


class HopAnswer(Message, frozen=True, kw_only=True):
    """An answer to one packet of a traceroute."""

    ip: Annotated[str, Meta(min_length=2, max_length=45)]
    """Who answered."""
    rtt: Annotated[float, Meta(ge=0)] | None = None
    """Seconds between packet and answer; None if the program does not say."""
    note: Annotated[str, Meta(pattern="^![A-Z0-9<>-]{0,12}(?!\\n)$")] | None = None
    """As programs write it: ``!H``, ``!N`` or ``!P``: host, network or protocol unreachable; ``!X``, ``!A`` or ``!Z``:
    prohibited by a filter; ``!`` and a number: another code of ICMP's message."""


class Hop(Message, frozen=True, kw_only=True):
    """The answers to the packets that may pass so many routers."""

    ttl: Annotated[int, Meta(ge=1, le=MAX_HOPS)]
    answers: Annotated[list[HopAnswer | None], Meta(max_length=MAX_HOP_PROBES)]
    """One for each packet, in the order of sending; None for one without an answer."""


class Trace(Message, frozen=True, kw_only=True):
    """The route to an address, as packets of one kind take it."""

    method: Literal["udp", "icmp", "tcp"]
    """``udp`` and ``tcp`` to port 123, ``icmp`` echo requests."""
    hops: Annotated[list[Hop], Meta(max_length=MAX_HOPS)]
    """In order, from 1 to the last one with an answer."""
    tried: Annotated[int, Meta(ge=0, le=MAX_HOPS)]
    """The last hop that was tried."""
    reached: bool
    """Whether the address itself has answered. NTP servers rarely do so by UDP, since these packets are no NTP."""
    error: str | None = None
    """Why the route may be incomplete."""


class AdHocAnswer(Message, frozen=True, kw_only=True):
    """The answer to an :class:`AdHocRequest`."""

    id: str
    result: Result | None = None
    traces: Annotated[list[Trace], Meta(max_length=3)] | None = None
    """For ``traceroute``: the route by each method that was needed. ``result`` then says whether it answers NTP."""
    metrics: str | None = None
    """Prometheus text format."""
    error: str | None = None


class ControlCommand(Message, frozen=True, kw_only=True):
    """A control command to a worker or an agent."""

    command: str
    server_id: int | None = None
    """The server that the command concerns; None: all."""
    level: LogLevel | None = None
    """The new level, for ``log-level``."""


class ControlAnswer(Message, frozen=True, kw_only=True):
    """The outcome of a control command."""

    ok: bool
    service: str
    command: str
    message: str = ""
    details: dict[str, Any] = {}


class RevokeTokens(Message, frozen=True, kw_only=True):
    """An order to the broker: refuse the tokens of a monitor that were issued until a time, and end their sessions."""

    name: str
    issued_until: int
    """Unix time in whole seconds, as in the claim ``iat`` of a token."""


# ---- live stream ---------------------------------------------------------------------------------------------------


class ResultStored(Message, frozen=True, kw_only=True):
    """A result was committed and changed the score of its pair."""

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
    """The selector changed the status of a pair."""

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
    """The payload is not a valid message of its type; the text says where and why, and never quotes the payload."""


def encode(message: Message) -> bytes:
    """Encode ``message`` as JSON."""
    return _encoder.encode(message)


def decode(payload: bytes, message_type: type[M]) -> M:
    """Decode a message.

    Raises:
        Undecodable: it is not valid JSON, or does not match ``message_type``.
    """
    try:
        return msgspec.json.decode(payload, type=message_type)
    except msgspec.ValidationError as error:
        # Some error texts quote the value, which may be long, a secret, or forged to look like another log line.
        raise Undecodable(_QUOTED.sub(r"\1", str(error))) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable(str(error)) from error


def decode_status(payload: bytes) -> Status:
    """Decode the status of an agent of either kind; its version is sanitised (:func:`plain_version`).

    Raises:
        Undecodable: it is of neither kind.
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
        # For a payload with ``Online``, report the older format's error; for any other, that of today's format.
        raise (error if b'"Online"' in payload else not_todays) from None


def plain_version(version: str) -> str:
    """Sanitise an agent's version: keep printable ASCII, up to the maximum length.

    A column of the pool's database may hold less than Unicode, and operators see the version in their terminals.
    """
    return _UNPRINTABLE.sub("?", version[:MAX_VERSION])


def assignment_set_hash(assignments: Iterable[Assignment]) -> str:
    """Return a hash of a set of assignments that does not depend on their order: 32 hexadecimal digits.

    Agent and selector compare it to detect differences, so it covers every field that the agent uses.
    """
    total = 0
    for a in assignments:
        line = f"{a.server_id} {a.ip} {a.port} {a.status} {a.interval:.3f}".encode()
        # A sum modulo 2^128 does not depend on the order and, unlike xor, does not cancel repeated lines.
        total += int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "big")
    return f"{total % (1 << 128):032x}"
