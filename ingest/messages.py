"""From a message as it arrived to a submission, or to the reason why it is none.

The topic is the sender's identity: the broker lets a monitor publish below its own name only.
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

_ULID: Final = re.compile(rb"[0-9A-HJKMNP-TV-Z]{26}")
_TRACE_PARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context, 3.2

MAX_STATUS_BYTES: Final = 16 * 1024
"""Bytes of a status message. An honest one has a few hundred; the ledger's column takes 64 KiB."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch and who sent it."""

    name: str
    ipv: IpVersion
    batch: Batch
    arrived: datetime
    """With its zone. The results' times are compared with this, however long the batch then waits for the database."""
    size: int = 0
    """Bytes of its payload."""
    trace_parent: str | None = None
    """W3C trace context of the publish, if the sender traces."""


@dataclass(frozen=True, slots=True)
class Presence:
    """A status message and who sent it."""

    name: str
    status: Status
    arrived: datetime
    retained: bool
    """The broker had kept it: it may have been written long before it arrived."""


@dataclass(frozen=True, slots=True)
class UndecodableMessage:
    """A message that is not what its topic promises."""

    topic: str
    payload: bytes
    reason: str
    name: str
    ipv: IpVersion | None = None
    batch: str | None = None
    """ULID of the batch, when the message names one in its correlation data: there is somebody to answer."""


def sender_of_results(topics: Topics, topic: str) -> tuple[str, IpVersion] | None:
    """Name and protocol of who sends results on ``topic``; None when it is no topic for results."""
    address = topics.parse(topic)
    if address is None or address.kind != "results" or address.ipv is None or not _is_name(address.name):
        return None
    return address.name, address.ipv


def sender_of_status(topics: Topics, topic: str) -> str | None:
    """Whose status ``topic`` holds; None when it is no status topic."""
    address = topics.parse(topic)
    if address is None or address.kind != "status" or not _is_name(address.name):
        return None
    return address.name


def _is_name(name: str) -> bool:
    """Whether a monitor can be called so. Columns of the pool's database may not even compare anything else."""
    return name.isascii() and name.isprintable()


def read_results(name: str, ipv: IpVersion, message: Incoming, arrived: datetime) -> Submission | UndecodableMessage:
    """The batch in ``message``."""
    named = _ulid(message.correlation)

    def unreadable(reason: str) -> UndecodableMessage:
        return UndecodableMessage(message.topic, message.payload, reason, name, ipv, named)

    try:
        batch = decode(message.payload, Batch)
    except Undecodable as error:
        return unreadable(str(error))
    if message.correlation is not None and named != batch.id:
        return unreadable("the correlation data is not the id of the batch")
    if len(batch.results) > MAX_BATCH_RESULTS:
        return unreadable(f"{len(batch.results)} results, at most {MAX_BATCH_RESULTS} are taken")
    return Submission(name, ipv, batch, arrived, len(message.payload), _trace_parent(message))


def read_status(name: str, message: Incoming, arrived: datetime) -> Presence | UndecodableMessage:
    """The presence in ``message``."""
    try:
        status = decode_status(message.payload)
    except Undecodable as error:
        return UndecodableMessage(message.topic, message.payload, str(error), name)
    # Measured as we would write it: what we do not know of is not kept.
    if len(encode(status)) > MAX_STATUS_BYTES:
        reason = f"longer than the {MAX_STATUS_BYTES} bytes of a status"
        return UndecodableMessage(message.topic, message.payload, reason, name)
    return Presence(name, status, arrived, message.retain)


def _ulid(correlation: bytes | None) -> str | None:
    if correlation is None or _ULID.fullmatch(correlation) is None:
        return None
    return correlation.decode("ascii")


def _trace_parent(message: Incoming) -> str | None:
    for name, value in message.user_properties:
        if name == "traceparent" and _TRACE_PARENT.fullmatch(value):
            return value
    return None
