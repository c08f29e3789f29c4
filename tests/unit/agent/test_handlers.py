"""Test that messages from the pool are applied, or refused and counted, independently of each other."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from agent import handlers as inbox_module
from agent.assignments import AssignmentRefused
from agent.handlers import Handlers
from agent.metrics import AgentCounters
from runtime.mqtt.session import Incoming
from schema.messages import Assignment, BatchCommitted, LogLevel, MonitorConfig, ProtocolConfig, encode
from schema.topics import Topics

TOPICS = Topics("prod")
NAME = "a.mon.example"
BATCH = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
ASSIGNED = Assignment(server_id=7, ip="9.9.9.9", port=123, status="active", interval=540.0)


class Protocol:
    """The prober and sender of one protocol; records its calls."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.refuses: str | None = None

    def configure(self, config: ProtocolConfig | None) -> None:
        self.told.append(config)

    def assign(self, server_id: int, assignment: Assignment | None) -> None:
        self.told.append((server_id, assignment))
        if assignment is not None and self.refuses is not None:
            raise AssignmentRefused(self.refuses)

    def acknowledge(self, ack: object) -> None:
        self.told.append(ack)


class Agent:
    """An agent's handlers, and the effects of the messages passed to them."""

    def __init__(self) -> None:
        self.v4, self.v6, self.counters = Protocol(), Protocol(), AgentCounters()
        self.configured = 0
        parts = cast(Any, {"v4": self.v4, "v6": self.v6})
        self.handlers = Handlers(TOPICS, parts, parts, self.counters, "warning", on_config=self._on_config)

    def _on_config(self) -> None:
        self.configured += 1

    def config(self, payload: bytes) -> None:
        self.handlers.config(Incoming(TOPICS.config(NAME), payload, retain=True))

    def has_level(self, level: LogLevel | None) -> None:
        self.config(encode(MonitorConfig(protocols={}, log_level=level)))

    def assignment(self, payload: bytes, topic: str = TOPICS.assignment(NAME, "v4", 7)) -> None:
        self.handlers.assignment(Incoming(topic, payload, retain=True))


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record the log levels that are set."""
    found: list[str] = []
    monkeypatch.setattr(inbox_module, "set_level", found.append)
    yield found


@pytest.fixture
def agent(levels: list[str]) -> Agent:
    return Agent()


def test_configuration_applies_per_protocol_and_an_empty_one_removes_it(agent: Agent) -> None:
    v4 = ProtocolConfig(status="active", ip="192.0.2.1", nat_ip=None, samples=3, base_checks=["9.9.9.9"])
    agent.config(encode(MonitorConfig(protocols={"v4": v4})))
    assert (agent.v4.told, agent.v6.told, agent.configured) == ([v4], [None], 1)
    agent.config(b"")
    assert (agent.v4.told[1:], agent.v6.told[1:], agent.configured) == ([None], [None], 2)


@pytest.mark.parametrize("payload", [b"{", b"[]", b'{"protocols":5}', b"\xff"])
def test_invalid_configuration_changes_nothing_and_is_counted(agent: Agent, payload: bytes) -> None:
    agent.config(payload)
    assert (agent.v4.told, agent.configured, agent.counters.messages_refused) == ([], 0, 1)


def test_log_level_of_the_pool_applies_until_it_changes(agent: Agent, levels: list[str]) -> None:
    agent.has_level("debug")
    agent.has_level("debug")
    assert levels == ["debug"], "what an operator has set for now is not undone by another change"
    agent.has_level("info")
    agent.has_level(None)
    assert levels == ["debug", "info", "warning"], "without one the host's own holds"
    agent.has_level(None)
    assert len(levels) == 3


def test_assignment_is_applied_and_an_empty_one_removes_it(agent: Agent) -> None:
    agent.assignment(encode(ASSIGNED))
    agent.assignment(b"")
    assert (agent.v4.told, agent.v6.told) == ([(7, ASSIGNED), (7, None)], [])
    agent.assignment(encode(ASSIGNED), TOPICS.assignment(NAME, "v6", 7))
    assert agent.v6.told == [(7, ASSIGNED)]


def test_undecodable_assignment_removes_the_previous_one(agent: Agent) -> None:
    agent.assignment(b'{"server_id":"x"}')
    assert (agent.v4.told, agent.counters.messages_refused) == ([(7, None)], 1), "it is no longer true"


def test_refused_assignment_is_counted_and_logged(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    agent.v4.refuses = "names server 8"
    agent.assignment(encode(ASSIGNED))
    assert (agent.v4.told, agent.counters.messages_refused) == ([(7, ASSIGNED)], 1), "the prober has dropped it itself"
    assert "assignment of server 7 refused: names server 8" in caplog.text


@pytest.mark.parametrize("server", ["x", "", "-1", "9" * 19, "9" * 500])
def test_assignment_on_an_invalid_topic_is_ignored_and_counted(agent: Agent, server: str) -> None:
    agent.assignment(encode(ASSIGNED), TOPICS.assignment(NAME, "v4", 7).removesuffix("7") + server)
    assert (agent.v4.told, agent.counters.messages_refused) == ([], 1)


def test_acknowledgement_reaches_the_sender_of_its_protocol(agent: Agent) -> None:
    ack = BatchCommitted(batch=BATCH, stored=1)
    agent.handlers.ack(Incoming(TOPICS.acks(NAME, "v6"), encode(ack), retain=False))
    assert (agent.v4.told, agent.v6.told) == ([], [ack])
    agent.handlers.ack(Incoming(TOPICS.acks(NAME, "v6"), b"{", retain=False))
    assert (agent.v6.told, agent.counters.messages_refused) == ([ack], 1)
