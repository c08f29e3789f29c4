"""List every channel of the system in one table: its topic, senders, receivers, and examples.

``schema/asyncapi.yaml`` is generated from this table, and a test compares ``docs/topics.md`` with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, cast

from schema.asyncapi import examples
from schema.limits import STATUS_EXPIRY
from schema.messages import Message
from schema.names import ENVIRONMENTS, IP_VERSIONS, Environment, IpVersion
from schema.topics import Topics

PARAMETERS: Final = {
    "env": "Environment. No message crosses from one to another.",
    "name": "Full name of a monitor, <short>.<env>.<domain>. The broker ensures that it is the sender's own.",
    "ipv": "Protocol.",
    "server_id": "Id of an NTP server, as in the table servers.",
    "check": "The requested information.",
    "id": "The id of the answered request, or a value chosen by the sender of a control command.",
    "service": "A worker. Every process of that service receives the command.",
    "operator": "The sender of the control command.",
    "order": "A value chosen by the sender, to tell answers apart.",
    "client_id": "The client id of a session.",
}
"""Every variable part of a topic, and its meaning."""

VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "env": ENVIRONMENTS,
    "ipv": IP_VERSIONS,
    "check": ("ntp", "traceroute", "metrics"),
    "service": ("api", "ingest", "notifier", "scorer", "selector"),
}
"""The variable parts of a topic that have only a few values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One kind of topic."""

    key: str
    address: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    examples: tuple[Message, ...] = ()
    """One of each message that may be published here; none if the payload is empty."""
    description: str
    qos: int = 1
    """1: arrives at least once; 0: arrives at most once."""
    retained: bool = False
    expiry: timedelta | None = None
    may_be_empty: bool = False
    """An empty payload removes the retained message."""
    correlation: str | None = None
    """Content of the MQTT 5 correlation data."""
    answered_on: str | None = None
    """Key of the channel of the answer, if the MQTT 5 response topic asks for one."""
    user_properties: Mapping[str, str] = field(default_factory=dict)


_T: Final = Topics(cast(Environment, "{env}"))
_IPV: Final = cast(IpVersion, "{ipv}")
_SERVER: Final = cast(int, "{server_id}")
_AGENT: Final = ("agent",)
_INGEST: Final = ("ingest",)
_SCORER: Final = ("scorer",)
_SELECTOR: Final = ("selector",)
_OPERATOR: Final = ("operator",)
_WORKERS: Final = ("api", "ingest", "notifier", "scorer", "selector")
_SENDER: Final = {"sender": "Name of the sender. The broker sets it, and removes any value that the client sent."}
_TRACE: Final = {"traceparent": "W3C trace context, when there is one."}

CHANNELS: Final = (
    Channel(
        key="status",
        address=_T.status("{name}"),
        senders=_AGENT,
        receivers=("ingest", "selector", "operator"),
        examples=(examples.STATUS, examples.OLDER_STATUS),
        description="Presence of an agent, published on every change and every 5 minutes. Its last will, 30 s after it "
        "vanished, has online false. Older agents publish fewer fields under other names.",
        retained=True,
        expiry=STATUS_EXPIRY,
    ),
    Channel(
        key="apiTest",
        address=_T.api_test("{name}"),
        senders=_AGENT,
        receivers=_OPERATOR,
        description="Published by the agent's connection test, to verify its permission.",
    ),
    Channel(
        key="config",
        address=_T.config("{name}"),
        senders=_SELECTOR,
        receivers=_AGENT,
        examples=(examples.CONFIG,),
        description="All settings of an agent that the pool controls.",
        retained=True,
        may_be_empty=True,
    ),
    Channel(
        key="assignment",
        address=_T.assignment("{name}", _IPV, _SERVER),
        senders=_SELECTOR,
        receivers=_AGENT,
        examples=(examples.ASSIGNMENT,),
        description="One server that the agent measures over one protocol. With a new session the agent starts from an "
        "empty set and adds what arrives.",
        retained=True,
        may_be_empty=True,
    ),
    Channel(
        key="results",
        address=_T.results("{name}", _IPV),
        senders=_AGENT,
        receivers=_INGEST,
        examples=(examples.BATCH,),
        description="A batch of results, published again until it is acknowledged. The ingest workers share them.",
        correlation="The id of the batch, so that ingest can answer even an undecodable batch.",
        user_properties=_TRACE,
    ),
    Channel(
        key="acks",
        address=_T.acks("{name}", _IPV),
        senders=_INGEST,
        receivers=_AGENT,
        examples=(examples.COMMITTED, examples.REFUSED),
        description="The outcome of a batch: in the ledger, or refused for good. Neither must be published again.",
        correlation="The id of the batch.",
        user_properties=_TRACE,
    ),
    Channel(
        key="requests",
        address=_T.request("{name}", "{check}"),
        senders=_OPERATOR,
        receivers=_AGENT,
        examples=(examples.REQUEST,),
        description="An ad hoc request: measure this address now (ntp), trace the route to it (traceroute), or return "
        "the metrics (metrics).",
        qos=0,
        answered_on="data",
    ),
    Channel(
        key="data",
        address=_T.data("{name}", "{id}"),
        senders=_AGENT,
        receivers=_OPERATOR,
        examples=(examples.ANSWER, examples.ROUTE, examples.PAUSED),
        description="An agent's answer to an ad hoc request (QoS 0) or to a control command (QoS 1).",
        qos=0,
        correlation="As in the answered message.",
    ),
    Channel(
        key="monitorControl",
        address=_T.monitor_control("{name}"),
        senders=_OPERATOR,
        receivers=_AGENT,
        examples=(examples.PAUSE,),
        description="A control command to an agent: ping, status, log-level, recheck, pause, resume, reload. It "
        "answers on its data topics only.",
        answered_on="data",
        user_properties=_SENDER,
    ),
    Channel(
        key="serviceControl",
        address=_T.service_control("{service}"),
        senders=_OPERATOR,
        receivers=_WORKERS,
        examples=(examples.RESCORE,),
        description="A control command to all workers of a service: ping, status, log-level; ingest pause, resume; "
        "scorer rescore; selector review, pause, resume.",
        answered_on="answers",
        user_properties=_SENDER,
    ),
    Channel(
        key="revocations",
        address=_T.revocations,
        senders=("api", "operator"),
        receivers=("broker",),
        examples=(examples.REVOKE,),
        description="An order to the broker: refuse a monitor's tokens that were issued until this time, and end its "
        "sessions. Repeated orders, and those with an earlier time, change nothing.",
        user_properties=_SENDER,
    ),
    Channel(
        key="pluginCheck",
        address=_T.plugin_check("{client_id}"),
        senders=_WORKERS,
        receivers=_WORKERS,
        description="A message from a worker to itself. If it returns without a sender, the broker does not have this "
        "project's plugin.",
        user_properties=_SENDER,
    ),
    Channel(
        key="answers",
        address=_T.answers("{operator}", "{order}"),
        senders=_WORKERS,
        receivers=_OPERATOR,
        examples=(examples.RESCORED,),
        description="The outcome of a control command, from each worker that received it. Any response topic of the "
        "environment is allowed; our own tools use this one.",
        correlation="As in the control command.",
    ),
    Channel(
        key="resultEvents",
        address=_T.result_event(_SERVER),
        senders=_INGEST,
        receivers=_OPERATOR,
        examples=(examples.RESULT_STORED,),
        description="Live stream: a result was committed. At most one per server and second, and the first to be "
        "dropped under load.",
        qos=0,
        user_properties=_TRACE,
    ),
    Channel(
        key="scoreEvents",
        address=_T.score_event(_SERVER),
        senders=_SCORER,
        receivers=_OPERATOR,
        examples=(examples.SCORE_COMPUTED,),
        description="Live stream: a server's score was computed. At most one per server and second.",
        qos=0,
        user_properties=_TRACE,
    ),
    Channel(
        key="assignmentEvents",
        address=_T.assignment_event(_SERVER),
        senders=_SELECTOR,
        receivers=_OPERATOR,
        examples=(examples.ASSIGNMENT_CHANGED,),
        description="Live stream: the selector changed the status of a pair. At most one per server and second.",
        qos=0,
    ),
    Channel(
        key="rejectedEvents",
        address=_T.rejected_event,
        senders=_INGEST,
        receivers=_OPERATOR,
        examples=(examples.MESSAGE_REJECTED,),
        description="Live stream: a message could not be decoded. At most one per second; all of them are in the table "
        "rejected_messages.",
        qos=0,
    ),
    Channel(
        key="echo",
        address=_T.echo("{client_id}"),
        senders=("selector", "operator"),
        receivers=("selector", "operator"),
        description="A message from a session to itself: when it returns, all earlier messages have arrived.",
    ),
)
"""All channels."""
