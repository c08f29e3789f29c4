"""Test operators' requests to one agent: answered where allowed, and limited in rate."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import requests
from agent.metrics import AgentCounters
from agent.ntp.measurement import Sample
from agent.ntp.probe import Source
from agent.ntp.targets import Target, TargetRules
from agent.requests import MAX_AT_ONCE, MAX_PER_MINUTE, TIMEOUT, Requests
from agent.traceroute import tracer
from agent.traceroute.gate import Gate
from runtime.mqtt.session import Incoming, NotConnected, PublishRefused
from schema.messages import AdHocAnswer, AdHocRequest, Hop, HopAnswer, Trace, decode, encode
from schema.topics import Topics

TOPICS = Topics("prod")
NAME = "a.mon.example"
OURS = TOPICS.data(NAME, "")
SERVER = "9.9.9.9"
ROUTE = [
    Trace(method="udp", hops=[Hop(ttl=1, answers=[HopAnswer(ip="192.0.2.254", rtt=0.001)])], tried=30, reached=False)
]


class Agent:
    """The part of an agent that answers requests. Probes last until ``release`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counters = AgentCounters()
        self.release = asyncio.Event()
        self.release.set()
        self.probes: list[tuple[Target, Source, int, float]] = []
        self.error: str | None = None
        self.ours = False
        self.sent: list[tuple[str, AdHocAnswer, bytes | None]] = []
        self.refuses: Exception | None = None
        self.config = SimpleNamespace(ip="192.0.2.1", nat_ip=None)
        self.prober = SimpleNamespace(why_not=None, config=self.config)
        self.now = 1000.0
        self.gate = Gate(lambda: self.now)
        self.traced: list[tuple[Target, str | None]] = []
        self.cannot: Exception | None = None
        monkeypatch.setattr(requests, "probe", self._probe)
        monkeypatch.setattr(tracer, "trace", self._trace)
        probers = {"v4": self.prober, "v6": SimpleNamespace(why_not="not configured by the pool", config=None)}
        self.adhoc = Requests(
            NAME,
            TOPICS,
            TargetRules("prod"),
            cast(Any, probers),
            self.counters,
            lambda: "metric 1\n",
            self.gate,
            self._publish,
        )

    def passes(self, seconds: float) -> None:
        """Let time pass: remembered requests become older."""
        self.adhoc._recent = [at - seconds for at in self.adhoc._recent]

    async def _probe(self, target: Target, source: Source, samples: int, timeout: float) -> Sequence[Sample]:
        self.probes.append((target, source, samples, timeout))
        await self.release.wait()
        return [Sample(sent_at=1, network_error=self.error, ours=self.ours)] * samples

    async def _trace(self, target: Target, source: str | None) -> list[Trace]:
        self.traced.append((target, source))
        if self.cannot is not None:
            raise self.cannot
        return ROUTE

    async def _publish(self, topic: str, payload: bytes, *, qos: int, correlation: bytes | None) -> None:
        assert qos == 0
        if self.refuses is not None:
            raise self.refuses
        self.sent.append((topic, decode(payload, AdHocAnswer), correlation))

    def ask(self, check: str = "ntp", ip: str | None = SERVER, *, number: int = 0, **message: Any) -> None:
        request = AdHocRequest(id=f"r{number}", ip=ip)
        self.adhoc.on_message(
            check, Incoming(TOPICS.request(NAME, check), encode(request), **{"retain": False} | message)
        )

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def answers(self, check: str = "ntp", ip: str | None = SERVER, **message: Any) -> AdHocAnswer:
        before = len(self.sent)
        self.ask(check, ip, **message)
        await self.settle()
        [(_, answer, _)] = self.sent[before:]
        return answer


@pytest.fixture
async def agent(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    made = Agent(monkeypatch)
    running = asyncio.create_task(made.adhoc.run())
    yield made
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_requested_measurement_is_an_ordinary_probe_and_is_counted(agent: Agent) -> None:
    answer = await agent.answers()
    assert answer.result is not None and (answer.result.server_id, answer.result.ip) == (0, SERVER)
    assert agent.probes == [(Target(SERVER, 123, "v4"), agent.probes[0][1], 1, TIMEOUT)]
    assert agent.probes[0][1].address == "192.0.2.1"
    assert agent.counters.samples_sent == 1


async def test_requested_probe_uses_the_nat_address_as_its_source(agent: Agent) -> None:
    agent.config.nat_ip = "192.0.2.77"
    await agent.answers()
    assert agent.probes[0][1].address == "192.0.2.77"


async def test_fifth_concurrent_request_is_answered_as_busy(agent: Agent) -> None:
    agent.release.clear()
    for number in range(MAX_AT_ONCE + 1):
        agent.ask(number=number)
    await agent.settle()
    assert len(agent.probes) == MAX_AT_ONCE == 4
    [(_, answer, _)] = agent.sent
    assert (answer.id, answer.error) == ("r4", "busy: too many requests at once")
    agent.release.set()
    await agent.settle()
    assert len(agent.sent) == 5
    assert (await agent.answers()).error is None, "all four have ended"


async def test_at_most_sixty_measurements_are_made_per_minute(agent: Agent) -> None:
    for _ in range(MAX_PER_MINUTE):
        assert (await agent.answers()).error is None
    assert (await agent.answers()).error == "busy: more than 60 measurements in a minute"
    assert (await agent.answers("metrics", None)).metrics == "metric 1\n", "these cost nobody anything"
    assert len(agent.probes) == MAX_PER_MINUTE == 60
    agent.passes(59.0)
    assert (await agent.answers()).error is not None
    agent.passes(1.0)
    assert (await agent.answers()).error is None


async def test_refused_requests_do_not_count_as_measurements(agent: Agent) -> None:
    for _ in range(MAX_PER_MINUTE):
        assert "not a public address" in str((await agent.answers(ip="192.168.1.1")).error)
    assert (await agent.answers()).error is None


@pytest.mark.parametrize(
    ("asked", "topic"),
    [
        (None, f"{OURS}r0"),
        (f"{OURS}r0", f"{OURS}r0"),
        (f"{OURS}elsewhere/below", f"{OURS}elsewhere/below"),
        (TOPICS.data("b.mon.example", "r0"), f"{OURS}r0"),
        (TOPICS.status(NAME), f"{OURS}r0"),
        (OURS.rstrip("/"), f"{OURS}r0"),
        ("", f"{OURS}r0"),
    ],
)
async def test_answers_are_published_below_the_agents_own_topic_only(
    agent: Agent, asked: str | None, topic: str
) -> None:
    await agent.answers(response_topic=asked, correlation=b"\x00\xff")
    assert [(where, correlation) for where, _, correlation in agent.sent] == [(topic, b"\x00\xff")]


@pytest.mark.parametrize(
    ("check", "ip", "error"),
    [
        ("ntp", None, "ip: required for ntp"),
        ("ntp", "127.0.0.1", "127.0.0.1 is not a public address: a loopback address"),
        ("ntp", "time.example", "'time.example' is not an IP address"),
        ("ntp", "2620:fe::fe", "IPv6 does not probe: not configured by the pool"),
        ("traceroute", None, "ip: required for traceroute"),
        ("traceroute", "127.0.0.1", "127.0.0.1 is not a public address: a loopback address"),
        ("traceroute", "10.1.2.3", "10.1.2.3 is not a public address: a private address"),
        ("traceroute", "224.0.1.1", "224.0.1.1 is not a public address: a multicast address"),
        ("traceroute", "-f", "'-f' is not an IP address"),
        ("traceroute", "2620:fe::fe", "IPv6 does not probe: not configured by the pool"),
        ("dance", SERVER, "unknown check 'dance': must be ntp, traceroute or metrics"),
    ],
)
async def test_impossible_requests_are_answered_with_the_reason(
    agent: Agent, check: str, ip: str | None, error: str
) -> None:
    answer = await agent.answers(check, ip)
    assert (answer.error, answer.result, agent.probes, agent.traced) == (error, None, [], [])


async def test_requests_are_refused_while_the_protocol_does_not_probe(agent: Agent) -> None:
    agent.prober.why_not = "paused by an operator"
    assert (await agent.answers()).error == "IPv4 does not probe: paused by an operator"


async def test_unsent_probe_is_answered_with_an_error_and_no_result(agent: Agent) -> None:
    agent.error, agent.ours = "unreachable", True
    answer = await agent.answers()
    assert (answer.result, answer.error) == (None, "this host could not send: network: unreachable")


@pytest.mark.parametrize("error", [NotConnected("gone"), PublishRefused("no"), ValueError("a topic that is none")])
async def test_unpublished_answer_does_not_stop_later_requests(agent: Agent, error: Exception) -> None:
    agent.refuses = error
    agent.ask()
    await agent.settle()
    agent.refuses = None
    assert (await agent.answers()).error is None


async def test_failed_measurement_is_answered_and_stops_no_later_request(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("a defect of ours")

    with monkeypatch.context() as patch:
        patch.setattr(requests, "probe", fails)
        for _ in range(MAX_AT_ONCE + 1):
            assert (await agent.answers()).error == "failed; see the agent's log"
    assert (await agent.answers()).error is None


async def test_undecodable_requests_are_counted_and_not_answered(agent: Agent) -> None:
    for payload in (b"", b"{", b'{"id":"../x"}', b"[" * 50_000):
        agent.adhoc.on_message("ntp", Incoming(TOPICS.request(NAME, "ntp"), payload, retain=False))
        await agent.settle()
    assert (agent.sent, agent.counters.messages_refused) == ([], 4)


async def test_requests_beyond_the_queue_limit_are_dropped_and_logged(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        agent.ask(number=number)
    await agent.settle()
    assert len(agent.sent) == 16
    assert "dropped" in caplog.text


# ---- traceroute ------------------------------------------------------------------------------------------------------


async def test_route_is_traced_from_the_same_address_and_the_server_is_measured(agent: Agent) -> None:
    answer = await agent.answers("traceroute")
    assert answer.traces == ROUTE and answer.result is not None and answer.result.no_response
    assert agent.traced == [(Target(SERVER, 123, "v4"), "192.0.2.1")]
    assert [(samples, timeout) for _, _, samples, timeout in agent.probes] == [(1, TIMEOUT)]
    assert agent.counters.samples_sent == 1


async def test_routes_are_limited_by_the_agent_itself(agent: Agent) -> None:
    await agent.answers("traceroute")
    agent.now += 9
    assert (await agent.answers("traceroute")).error == "busy: a traceroute began less than 10 seconds ago"
    agent.now += 1
    agent.release.clear()
    agent.ask("traceroute", number=1)
    await agent.settle()
    agent.now += 60
    assert (await agent.answers("traceroute")).error == "busy: another traceroute is running"
    agent.release.set()
    await agent.settle()
    assert len(agent.traced) == 2


@pytest.mark.parametrize(("field", "address"), [("ip", "9.9.9.200"), ("nat_ip", "9.9.9.1")])
async def test_routes_into_the_hosts_own_network_are_refused(agent: Agent, field: str, address: str) -> None:
    setattr(agent.config, field, address)
    assert (await agent.answers("traceroute")).error == f"{SERVER} is in the network of this host"
    assert (agent.traced, agent.probes) == ([], [])


async def test_an_agent_without_a_usable_program_says_so_and_no_longer_offers_it(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(agent.gate, "useless", lambda: told.append(True))
    agent.cannot = tracer.CannotTrace("udp: connect: Network is unreachable")
    answer = await agent.answers("traceroute")
    assert (answer.error, answer.result, told) == ("udp: connect: Network is unreachable", None, [])
    agent.now += 10
    agent.cannot = tracer.Useless("/usr/bin/traceroute lacks the rights of root")
    assert (await agent.answers("traceroute")).error == "/usr/bin/traceroute lacks the rights of root"
    assert told == [True]


async def test_a_host_that_cannot_send_traces_no_route(agent: Agent) -> None:
    agent.error, agent.ours = "unreachable", True
    assert (await agent.answers("traceroute")).error == "this host could not send: network: unreachable"
    assert agent.traced == []
