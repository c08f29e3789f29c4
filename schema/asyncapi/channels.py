"""Every channel of the system in one table: its topic, who says what to whom there, and an example of it.

``schema/asyncapi.yaml`` is made from this table, and ``docs/topics.md`` is held to it.
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
    "env": "Environment. Nothing crosses from one to another.",
    "name": "Full name of a monitor, <short>.<env>.<domain>. The broker makes sure that it is the sender's own.",
    "ipv": "Protocol.",
    "server_id": "Id of an NTP server, as in the table servers.",
    "check": "What is asked for.",
    "id": "The id of the request that is answered, or what the sender of an order chose.",
    "service": "A worker. Every process of that service gets the order.",
    "operator": "Who ordered.",
    "order": "What the sender chose, to tell answers apart.",
    "client_id": "The client id of a session.",
}
"""Every part of a topic that varies, and what it means."""

VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "env": ENVIRONMENTS,
    "ipv": IP_VERSIONS,
    "check": ("ntp", "metrics"),
    "service": ("ingest", "scorer", "selector"),
}
"""The parts of a topic that have a few values only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One kind of topic."""

    key: str
    address: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    examples: tuple[Message, ...] = ()
    """One of each message that may be here; none: the payload is empty."""
    description: str
    qos: int = 1
    """1: arrives, perhaps twice; 0: arrives perhaps."""
    retained: bool = False
    expiry: timedelta | None = None
    may_be_empty: bool = False
    """An empty payload removes what is retained."""
    correlation: str | None = None
    """What the MQTT 5 correlation data holds."""
    answered_on: str | None = None
    """Key of the channel where the answer comes, when the MQTT 5 response topic asks for one."""
    user_properties: Mapping[str, str] = field(default_factory=dict)


_T: Final = Topics(cast(Environment, "{env}"))
_IPV: Final = cast(IpVersion, "{ipv}")
_SERVER: Final = cast(int, "{server_id}")
_AGENT: Final = ("agent",)
_INGEST: Final = ("ingest",)
_SCORER: Final = ("scorer",)
_SELECTOR: Final = ("selector",)
_OPERATOR: Final = ("operator",)
_WORKERS: Final = ("ingest", "scorer", "selector")
_SENDER: Final = {"sender": "Name of who ordered. The broker puts it there, and removes what a client wrote."}
_TRACE: Final = {"traceparent": "W3C trace context, when there is one."}

CHANNELS: Final = (
    Channel(
        key="status",
        address=_T.status("{name}"),
        senders=_AGENT,
        receivers=("ingest", "selector", "operator"),
        examples=(examples.STATUS, examples.OLDER_STATUS),
        description="Presence of an agent: when something changes, and every 5 minutes. Its last will, 30 s after it "
        "vanished, says online false. Agents of the former kind say less, with other names.",
        retained=True,
        expiry=STATUS_EXPIRY,
    ),
    Channel(
        key="apiTest",
        address=_T.api_test("{name}"),
        senders=_AGENT,
        receivers=_OPERATOR,
        description="Published by the agent's connection test, to see that it may.",
    ),
    Channel(
        key="config",
        address=_T.config("{name}"),
        senders=_SELECTOR,
        receivers=_AGENT,
        examples=(examples.CONFIG,),
        description="All settings of an agent that the pool decides.",
        retained=True,
        may_be_empty=True,
    ),
    Channel(
        key="assignment",
        address=_T.assignment("{name}", _IPV, _SERVER),
        senders=_SELECTOR,
        receivers=_AGENT,
        examples=(examples.ASSIGNMENT,),
        description="One server that the agent measures on one protocol. With a new session the agent starts from an "
        "empty set and takes what arrives.",
        retained=True,
        may_be_empty=True,
    ),
    Channel(
        key="results",
        address=_T.results("{name}", _IPV),
        senders=_AGENT,
        receivers=_INGEST,
        examples=(examples.BATCH,),
        description="A batch of results, sent again until it is acknowledged. The workers of ingest share them.",
        correlation="The id of the batch: so ingest can answer also what it cannot decode.",
        user_properties=_TRACE,
    ),
    Channel(
        key="acks",
        address=_T.acks("{name}", _IPV),
        senders=_INGEST,
        receivers=_AGENT,
        examples=(examples.COMMITTED, examples.REFUSED),
        description="What became of a batch: in the ledger, or refused for good. Neither is to be sent again.",
        correlation="The id of the batch.",
        user_properties=_TRACE,
    ),
    Channel(
        key="requests",
        address=_T.request("{name}", "{check}"),
        senders=_OPERATOR,
        receivers=_AGENT,
        examples=(examples.REQUEST,),
        description="An ad hoc request: measure this address now (ntp), or tell your metrics (metrics).",
        qos=0,
        answered_on="data",
    ),
    Channel(
        key="data",
        address=_T.data("{name}", "{id}"),
        senders=_AGENT,
        receivers=_OPERATOR,
        examples=(examples.ANSWER, examples.PAUSED),
        description="An agent's answer to an ad hoc request (QoS 0) or to an order (QoS 1).",
        qos=0,
        correlation="As in what is answered.",
    ),
    Channel(
        key="monitorControl",
        address=_T.monitor_control("{name}"),
        senders=_OPERATOR,
        receivers=_AGENT,
        examples=(examples.PAUSE,),
        description="An order to an agent: ping, status, log-level, recheck, pause, resume, reload. It may answer on "
        "its data topics only.",
        answered_on="data",
        user_properties=_SENDER,
    ),
    Channel(
        key="serviceControl",
        address=_T.service_control("{service}"),
        senders=_OPERATOR,
        receivers=_WORKERS,
        examples=(examples.RESCORE,),
        description="An order to all workers of a service: ping, status, log-level; ingest pause, resume; scorer "
        "rescore; selector review, pause, resume.",
        answered_on="answers",
        user_properties=_SENDER,
    ),
    Channel(
        key="answers",
        address=_T.answers("{operator}", "{order}"),
        senders=_WORKERS,
        receivers=_OPERATOR,
        examples=(examples.RESCORED,),
        description="What became of an order, from each worker that got it. Any response topic of the environment will "
        "do; this is the one that our own tools use.",
        correlation="As in the order.",
    ),
    Channel(
        key="resultEvents",
        address=_T.result_event(_SERVER),
        senders=_INGEST,
        receivers=_OPERATOR,
        examples=(examples.RESULT_STORED,),
        description="Live stream: a result was committed. At most one a server and second, and the first thing dropped "
        "under load.",
        qos=0,
    ),
    Channel(
        key="scoreEvents",
        address=_T.score_event(_SERVER),
        senders=_SCORER,
        receivers=_OPERATOR,
        examples=(examples.SCORE_COMPUTED,),
        description="Live stream: a server's score was computed. At most one a server and second.",
        qos=0,
    ),
    Channel(
        key="assignmentEvents",
        address=_T.assignment_event(_SERVER),
        senders=_SELECTOR,
        receivers=_OPERATOR,
        examples=(examples.ASSIGNMENT_CHANGED,),
        description="Live stream: the selector moved a monitor of a server. At most one a server and second.",
        qos=0,
    ),
    Channel(
        key="rejectedEvents",
        address=_T.rejected_event,
        senders=_INGEST,
        receivers=_OPERATOR,
        examples=(examples.MESSAGE_REJECTED,),
        description="Live stream: a message could not be decoded. At most one a second; all of them are in the table "
        "rejected_messages.",
        qos=0,
    ),
    Channel(
        key="echo",
        address=_T.echo("{client_id}"),
        senders=("selector", "operator"),
        receivers=("selector", "operator"),
        description="A session's word to itself: when it comes back, all that the broker had for it before has come.",
    ),
)
"""All of them."""
