"""Handle messages from the pool to an agent: configuration, assignments and acknowledgements."""

import logging
from collections.abc import Callable, Mapping
from typing import Final

from agent.assignments import AssignmentRefused
from agent.delivery.sender import Sender
from agent.metrics import AgentCounters
from agent.prober import Prober
from runtime.log import OngoingWarning, set_level
from runtime.mqtt.session import Incoming
from schema.messages import Ack, Assignment, LogLevel, MonitorConfig, Undecodable, decode
from schema.names import IpVersion
from schema.topics import Topics

log = logging.getLogger(__name__)

_MAX_ID_DIGITS: Final = 18
"""Maximum digits of a server's id; the ledger cannot hold more."""


class Handlers:
    """Handle the messages to one agent, each immediately.

    Args:
        on_config: called when a configuration has been applied.
    """

    def __init__(
        self,
        topics: Topics,
        probers: Mapping[IpVersion, Prober],
        senders: Mapping[IpVersion, Sender],
        counters: AgentCounters,
        log_level: LogLevel,
        on_config: Callable[[], None],
    ) -> None:
        self._topics = topics
        self._probers = probers
        self._senders = senders
        self._counters = counters
        self._own_log_level = log_level
        self._configured_log_level: LogLevel | None = None
        self._on_config = on_config
        self._warning = OngoingWarning(log)

    def config(self, message: Incoming) -> None:
        """Apply the retained configuration; an empty payload removes it."""
        try:
            config = decode(message.payload, MonitorConfig) if message.payload else MonitorConfig()
        except Undecodable as error:
            self._refuse("configuration refused, keeping the previous one: %s", error)
            return
        for ipv, prober in self._probers.items():
            prober.configure(config.protocols.get(ipv))
        self._set_log_level(config.log_level)
        self._on_config()

    def assignment(self, message: Incoming) -> None:
        """Apply one retained assignment; an empty payload removes it."""
        address = self._topics.parse(message.topic)
        if address is None or address.ipv is None or not 0 < len(address.rest) <= _MAX_ID_DIGITS:
            self._refuse("assignment on %s refused: invalid topic", message.topic[:200])
            return
        prober, server_id = self._probers[address.ipv], int(address.rest)
        if not message.payload:
            prober.assign(server_id, None)
            return
        try:
            prober.assign(server_id, decode(message.payload, Assignment))
        except (Undecodable, AssignmentRefused) as error:
            if isinstance(error, Undecodable):
                prober.assign(server_id, None)  # the previous assignment is no longer valid
            self._refuse("assignment of server %d refused: %s", server_id, error)

    def ack(self, message: Incoming) -> None:
        """Handle the acknowledgement of a batch."""
        address = self._topics.parse(message.topic)
        try:
            ack: Ack = decode(message.payload, Ack)  # type: ignore[arg-type]  # a union is a type for msgspec
        except Undecodable as error:
            self._refuse("acknowledgement refused: %s", error)
            return
        if address is not None and address.ipv is not None:
            self._senders[address.ipv].acknowledge(ack)

    def _set_log_level(self, level: LogLevel | None) -> None:
        if level == self._configured_log_level:
            return  # so that other changes do not undo a level that an operator has set
        self._configured_log_level = level
        set_level(level or self._own_log_level)

    def _refuse(self, text: str, *args: object) -> None:
        self._counters.messages_refused += 1
        self._warning.warning(text, *args)
