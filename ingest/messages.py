"""Decode messages into submissions and presence, or into the reason why they are undecodable.

The topic identifies the sender, since the broker lets a monitor publish only below its own name.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from runtime.mqtt.session import Incoming
from schema.limits import MAX_BATCH_RESULTS
from schema.messages import Batch, Status, Undecodable, decode, decode_status, encode
from schema.names import IpVersion
from schema.topics import Topics
from schema.trace_context import find_trace_context

_ULID: Final = re.compile(rb"[0-9A-HJKMNP-TV-Z]{26}")

MAX_STATUS_BYTES: Final = 16 * 1024
"""Maximum bytes of a status message. A normal one has a few hundred; the ledger's column holds 64 KiB."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch and its sender."""

    name: str
    ipv: IpVersion
    batch: Batch
    arrived: datetime
    """Aware. The results' times are compared with this, regardless of the time in the queue."""
    size: int = 0
    """Bytes of the payload."""
    trace_parent: str | None = None
    """Valid trace context of the publish, if the sender traces; repeated in the ack."""
    trace: str | None = None
    """Trace context to continue, if the batch is traced here (:mod:`ingest.tracing`)."""


@dataclass(frozen=True, slots=True)
class Presence:
    """A status message and its sender."""

    name: str
    status: Status
    arrived: datetime
    retained: bool
    """True for a retained message, which may have been published long before."""


@dataclass(frozen=True, slots=True)
class UndecodableMessage:
    """A message that is not valid for its topic."""

    topic: str
    payload: bytes
    reason: str
    name: str
    ipv: IpVersion | None = None
    batch: str | None = None
    """ULID of the batch if the correlation data has one, so that the sender can get an answer."""


def sender_of_results(topics: Topics, topic: str) -> tuple[str, IpVersion] | None:
    """Return name and protocol of the sender of results on ``topic``; None if it is not a topic for results."""
    address = topics.parse(topic)
    if address is None or address.kind != "results" or address.ipv is None or not _is_name(address.name):
        return None
    return address.name, address.ipv


def sender_of_status(topics: Topics, topic: str) -> str | None:
    """Return the name of the agent whose status is on ``topic``; None if it is not a status topic."""
    address = topics.parse(topic)
    if address is None or address.kind != "status" or not _is_name(address.name):
        return None
    return address.name


def _is_name(name: str) -> bool:
    """Return whether this can be a monitor's name. Comparisons in the pool's database may fail for other text."""
    return name.isascii() and name.isprintable()


def read_results(name: str, ipv: IpVersion, message: Incoming, arrived: datetime) -> Submission | UndecodableMessage:
    """Decode the batch in ``message``."""
    named = _ulid(message.correlation)

    def undecodable(reason: str) -> UndecodableMessage:
        return UndecodableMessage(message.topic, message.payload, reason, name, ipv, named)

    try:
        batch = decode(message.payload, Batch)
    except Undecodable as error:
        return undecodable(str(error))
    if message.correlation is not None and named != batch.id:
        return undecodable("the correlation data is not the id of the batch")
    if len(batch.results) > MAX_BATCH_RESULTS:
        return undecodable(f"{len(batch.results)} results, at most {MAX_BATCH_RESULTS} are allowed")
    return Submission(name, ipv, batch, arrived, len(message.payload), find_trace_context(message.user_properties))


def read_status(name: str, message: Incoming, arrived: datetime) -> Presence | UndecodableMessage:
    """Decode the presence in ``message``."""
    try:
        status = decode_status(message.payload)
    except Undecodable as error:
        return UndecodableMessage(message.topic, message.payload, str(error), name)
    # Measured as encoded for the ledger, without unknown fields.
    if len(encode(status)) > MAX_STATUS_BYTES:
        reason = f"longer than the {MAX_STATUS_BYTES} bytes of a status"
        return UndecodableMessage(message.topic, message.payload, reason, name)
    return Presence(name, status, arrived, message.retain)


def _ulid(correlation: bytes | None) -> str | None:
    if correlation is None or _ULID.fullmatch(correlation) is None:
        return None
    return correlation.decode("ascii")
