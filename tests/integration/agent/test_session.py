"""Test an agent's session packet by packet: its retained messages, and its handling of the broker's properties."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from agent.app import Agent
from agent.daemon_settings import DaemonSettings
from agent.delivery.spool import Batched
from agent.login import Login
from agent.pipeline import keep
from agent.state import Broker, State, provision
from schema.messages import Assignment, Batch, BatchCommitted, MonitorConfig, ProtocolConfig, Result, Status, encode
from testbed.fixtures.wire import PatientBroker, connack, patient_broker, publish
from testbed.waiting import wait_until

NAME = "wire.devel.mon.example"
STATUS = f"/devel/monitors/status/{NAME}/status"
RESULTS = f"/devel/monitors/results/{NAME}/v4"
ACKS = f"/devel/monitors/acks/{NAME}/v4"


@pytest.fixture(autouse=True)
def _soon_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the back-off after a refusal, which these tests do not check."""
    monkeypatch.setattr("agent.reconnect.FIRST_WAIT", 0.02)
    monkeypatch.setattr("agent.reconnect.WAIT", 0.02)


class Running:
    """An agent that runs in this process."""

    def __init__(self, base: Path, port: int, *, passing: bool = False) -> None:
        broker = Broker(host="127.0.0.1", port=port)
        directory = provision(base, "devel", State(name=NAME, broker=broker, allow_private_targets=True), "token")
        settings = DaemonSettings(env="devel", state_base=str(base))
        self.kept = keep(settings, directory)
        login = Login(directory, directory.read_state())
        self.monitor = Agent(settings, directory, login, self.kept, on_reload=lambda: None, passing=passing)
        self.line = self.monitor.pipelines["v4"]
        self.ends = asyncio.Event()

    @asynccontextmanager
    async def at_work(self, *, says_goodbye: bool = True) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.monitor.run(self.ends, lambda: says_goodbye))
            yield
            self.ends.set()

    def add_results(self, count: int) -> None:
        for number in range(1, count + 1):
            result = Result(server_id=number, ip="192.0.2.1", ts=datetime.now(UTC), offset=0.001, rtt=0.01)
            self.line.batcher.add(result, asyncio.get_running_loop().time())


def assign(broker: PatientBroker, server_id: int) -> None:
    assignment = Assignment(server_id=server_id, ip="127.0.0.1", port=1, status="active", interval=540)
    topic = f"/devel/monitors/assignments/{NAME}/v4/{server_id}"
    broker.last.peer.say(publish(topic.encode(), encode(assignment), 1, retain=True))


def acknowledge(broker: PatientBroker) -> int:
    """Acknowledge all batches received so far as committed, and return their number."""
    batches = [msgspec.json.decode(payload, type=Batch) for payload in broker.last.payloads(RESULTS)]
    for batch in batches:
        broker.last.peer.say(publish(ACKS.encode(), encode(BatchCommitted(batch=batch.id, stored=1)), 1))
    return len(batches)


async def connected(broker: PatientBroker, count: int = 1) -> None:
    """Wait until the agent has published that it is online on its ``count``th connection."""
    await wait_until(
        lambda: len(broker.connections) == count and broker.last.payloads(STATUS), "not connected", within=30
    )


async def test_last_will_is_a_retained_offline_status(tmp_path: Path) -> None:
    async with patient_broker() as broker, Running(tmp_path, broker.port).at_work():
        await connected(broker)
    will = broker.connections[0].connect.will
    assert will is not None
    assert (will.topic, will.qos, will.retain) == (STATUS, 1, True)
    said = msgspec.json.decode(will.payload, type=Status)
    assert (said.online, said.ts, said.protocols) == (False, None, {})
    assert b"\x18\x00\x00\x00\x1e" in will.properties, "30 s after the connection"
    assert b"\x02\x00\x01\x51\x80" in will.properties, "forgotten after a day"


async def test_status_is_retained_and_expires(tmp_path: Path) -> None:
    async with patient_broker() as broker, Running(tmp_path, broker.port).at_work():
        await connected(broker)
        sent = next(one for one in broker.last.published if one.topic == STATUS)
        assert (sent.qos, sent.retain) == (1, True)
        assert b"\x02\x00\x01\x51\x80" in sent.properties
        assert msgspec.json.decode(sent.payload, type=Status).online


async def test_offline_is_published_on_shutdown_but_not_on_reconnection(tmp_path: Path) -> None:
    async with patient_broker() as broker:
        for says_goodbye in (True, False):
            async with Running(tmp_path / str(says_goodbye), broker.port).at_work(says_goodbye=says_goodbye):
                await connected(broker, 1 if says_goodbye else 2)
            said = msgspec.json.decode(broker.last.payloads(STATUS)[-1], type=Status)
            assert said.online is not says_goodbye
            await wait_until(lambda: broker.last.over)
            assert broker.last.heard[-1].kind == 14, "DISCONNECT, so that no will is sent"


async def test_one_shot_agent_leaves_no_will_and_no_session(tmp_path: Path) -> None:
    async with patient_broker() as broker:
        passing = Running(tmp_path, broker.port, passing=True)
        parts = {"clock watch": passing.monitor.watch_clock()}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(passing.monitor.serve(parts, passing.ends, lambda: False))
            await wait_until(lambda: passing.monitor.session.connected)
            passing.ends.set()
        assert broker.last.connect.will is None
        assert broker.last.connect.clean_start


@pytest.mark.parametrize("kept", [True, False])
async def test_assignments_are_kept_only_if_the_broker_kept_the_session(tmp_path: Path, kept: bool) -> None:
    """A broker that has lost the session sends all assignments again; those that are missing have been removed."""
    async with patient_broker(connack(), connack(session_present=kept)) as broker:
        running = Running(tmp_path, broker.port)
        async with running.at_work():
            await connected(broker)
            assign(broker, 7)
            await wait_until(lambda: len(running.line.prober.assignments) == 1)
            broker.last.peer.close()
            await connected(broker, 2)
            assert running.line.prober.assignments.ids() == ([7] if kept else [])
            assert (running.line.prober._schedule.next_due() is not None) is kept
            assign(broker, 8)
            await wait_until(lambda: 8 in running.line.prober.assignments.ids())
            assert running.line.prober.assignments.ids() == ([7, 8] if kept else [8])


@pytest.mark.parametrize("kept", [True, False])
async def test_batch_is_resent_at_once_if_the_broker_has_lost_the_session(tmp_path: Path, kept: bool) -> None:
    """A broker that lost the session may have lost the batch too; otherwise the acknowledgement may still arrive."""
    async with patient_broker(connack(), connack(session_present=kept)) as broker:
        running = Running(tmp_path, broker.port)
        running.line.sender._ack_timeout = 3_600.0
        async with running.at_work():
            await connected(broker)
            running.add_results(1)
            await wait_until(lambda: broker.last.payloads(RESULTS))
            broker.last.peer.close()
            await connected(broker, 2)
            if not kept:
                await wait_until(lambda: broker.last.payloads(RESULTS))
            else:
                assert broker.last.payloads(RESULTS) == []


async def test_collected_results_are_spooled_on_shutdown(tmp_path: Path) -> None:
    async with patient_broker() as broker:
        running = Running(tmp_path, broker.port)
        async with running.at_work():
            await connected(broker)
            running.add_results(3)
            assert len(running.line.spool) == 0
        assert [running.line.spool.read(number).results for number in running.line.spool] == [3]  # type: ignore[union-attr]


async def test_collected_results_are_spooled_on_shutdown_without_a_broker(tmp_path: Path) -> None:
    running = Running(tmp_path, 1)
    async with running.at_work():
        running.add_results(3)
        await asyncio.sleep(0)
    assert [running.line.spool.read(number).results for number in running.line.spool] == [3]  # type: ignore[union-attr]


async def test_batches_respect_the_maximum_packet_size_of_the_broker(tmp_path: Path) -> None:
    async with patient_broker(connack(max_packet=2_000)) as broker:
        running = Running(tmp_path, broker.port)
        async with running.at_work():
            await connected(broker)
            running.add_results(50)

            sizes: dict[bytes, int] = {}

            def arrived() -> list[int]:
                acknowledge(broker)
                sizes.update({one.payload: one.size for one in broker.last.published if one.topic == RESULTS})
                batches = [msgspec.json.decode(payload, type=Batch) for payload in sizes]
                return sorted(result.server_id for batch in batches for result in batch.results)

            await wait_until(lambda: len(arrived()) >= 50 and not len(running.line.spool))
            assert arrived() == list(range(1, 51))
        assert max(sizes.values()) <= 2_000
        assert len(broker.connections) == 1


async def test_oversized_batch_waits_without_blocking_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with patient_broker(connack(max_packet=2_000), connack()) as broker:
        running = Running(tmp_path, broker.port)
        spool = running.line.spool
        large = Batch(id="01J00000000000000000000001", version="1", results=[])
        payload = encode(large) + b" " * 5_000
        number = spool.reserve()
        now = int(datetime.now(UTC).timestamp())
        spool.admit(number, spool.store(number, Batched(id=large.id, results=1, created=now, payload=payload)), now)
        async with running.at_work():
            await connected(broker)
            running.add_results(1)
            await wait_until(lambda: acknowledge(broker) == 1)
            await wait_until(lambda: list(spool) == [number])
            assert running.line.sender.trouble == "1 batches are larger than the broker accepts"
            assert "it waits in the spool for a broker that accepts it" in caplog.text
            assert len(broker.connections) == 1, "it was not sent"
            broker.last.peer.close()
            await wait_until(
                lambda: len(broker.connections) == 2 and broker.last.payloads(RESULTS) == [payload], within=30
            )
            await wait_until(lambda: acknowledge(broker) and not len(spool))
            assert running.line.sender.trouble is None


async def test_agent_adapts_to_a_broker_without_retain_and_with_qos_0_only(tmp_path: Path) -> None:
    refusals = [connack(reason=0x9A), connack(reason=0x9B)]
    async with patient_broker(*refusals, connack(retain=0, max_qos=0)) as broker:
        running = Running(tmp_path, broker.port)
        async with running.at_work():
            await connected(broker, 3)
            running.add_results(1)
            await wait_until(lambda: acknowledge(broker))
            await wait_until(lambda: not len(running.line.spool))
        assert {(sent.qos, sent.retain) for sent in broker.last.published} == {(0, False)}


async def test_undecodable_configuration_leaves_the_previous_one_in_effect(tmp_path: Path) -> None:
    config = MonitorConfig(protocols={"v4": ProtocolConfig(status="testing", base_checks=[], ip="192.0.2.1")})
    topic = f"/devel/monitors/config/{NAME}".encode()
    async with patient_broker() as broker:
        running = Running(tmp_path, broker.port)
        async with running.at_work():
            await connected(broker)
            broker.last.peer.say(publish(topic, encode(config), 1, retain=True))
            await wait_until(lambda: running.line.prober.config is not None)
            broker.last.peer.say(publish(topic, b"{", 2, retain=True))
            await wait_until(lambda: running.kept.counters.messages_refused == 1)
            assert running.line.prober.config == config.protocols["v4"]


@pytest.mark.parametrize("broken", [b"{", b"\xff", b"[]", b'{"server_id": "x"}'])
async def test_undecodable_assignment_removes_the_previous_one(tmp_path: Path, broken: bytes) -> None:
    """The previous assignment is no longer valid, and the new one is unknown."""
    async with patient_broker() as broker:
        running = Running(tmp_path, broker.port)
        async with running.at_work():
            await connected(broker)
            assign(broker, 7)
            await wait_until(lambda: running.line.prober.assignments.ids() == [7])
            broker.last.peer.say(publish(f"/devel/monitors/assignments/{NAME}/v4/7".encode(), broken, 2, retain=True))
            await wait_until(lambda: running.line.prober.assignments.ids() == [])
            assert running.kept.counters.messages_refused == 1


async def test_the_session_is_kept_for_a_day(tmp_path: Path) -> None:
    async with patient_broker() as broker, Running(tmp_path, broker.port).at_work():
        await connected(broker)
        assert b"\x11\x00\x01\x51\x80" in broker.last.connect.properties
        assert not broker.last.connect.clean_start


async def test_log_level_set_by_an_operator_survives_unchanged_configuration(
    tmp_path: Path,
) -> None:
    topic = f"/devel/monitors/config/{NAME}".encode()
    async with patient_broker() as broker:
        running = Running(tmp_path, broker.port)
        async with running.at_work():
            await connected(broker)
            for number, (level, expected) in enumerate(
                [("error", logging.ERROR), ("error", logging.DEBUG), (None, logging.INFO)], start=1
            ):
                config = MonitorConfig(log_level=level, protocols={})  # type: ignore[arg-type]  # a valid level
                broker.last.peer.say(publish(topic, encode(config), number, retain=True))
                await wait_until(lambda number=number: puback(broker, number))
                assert logging.getLogger().level == expected
                if number == 1:
                    logging.getLogger().setLevel(logging.DEBUG)  # as the control command log-level does


def puback(broker: PatientBroker, number: int) -> bool:
    """Return whether the agent has acknowledged the message of this number, and has therefore handled it."""
    return any(sent.kind == 4 and sent.identifier == number for sent in broker.last.heard)


async def test_status_reports_dropped_waiting_and_set_aside_data(tmp_path: Path) -> None:
    async with patient_broker() as broker:
        running = Running(tmp_path, broker.port)
        spool = running.line.spool
        number = spool.reserve()
        now = int(datetime.now(UTC).timestamp())
        spool.admit(number, spool.store(number, Batched(id=f"{1:026}", results=1, created=now, payload=b"{}")), now)
        spool.drop_results(3)
        spool.counters.set_aside = 2
        async with running.at_work():
            await connected(broker)
            said = msgspec.json.decode(broker.last.payloads(STATUS)[0], type=Status).spool
        assert (said.batches, said.dropped_results, said.set_aside) == (1, 3, 2)
        assert said.bytes == spool.bytes > 0
