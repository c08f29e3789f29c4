"""Test traces with real processes: one trace id from an agent's batch to the event with the score."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from ulid import ULID

from agent.delivery.spool import Batched
from agent.pipeline import BatchLink
from auth.tokens import Role
from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity, Incoming, Subscription
from schema.messages import Batch, Result, encode
from schema.tables import score_traces
from schema.topics import ANY, Topics
from schema.trace_context import find_trace_context, ids_of, ids_of_batch
from testbed.fixtures.batches import new_batch
from testbed.fixtures.broker import Broker
from testbed.fixtures.running_ingest import TestMonitor, connected_monitor
from testbed.fixtures.worker_process import WorkerProcess, worker_settings, write_key
from testbed.fixtures.world import add_monitor, add_pair, add_server
from testbed.otlp_receiver import OtlpReceiver, ReceivedSpan, otlp_receiver
from testbed.ports import free_port
from testbed.waiting import wait_until

TOPICS = Topics("test")
QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "300"}
SERVERS = 3


def world(engine: Engine, name: str) -> list[tuple[int, str]]:
    """Add a monitor with some servers; return their ids and addresses."""
    with engine.begin() as connection:
        monitor = add_monitor(connection, name)
        ips = [f"192.0.2.{number}" for number in range(SERVERS + 1)]
        found = [(add_server(connection, ip), ip) for ip in ips]
        for server_id, _ in found:
            add_pair(connection, server_id, monitor)
    return found


def batch(servers: Sequence[tuple[int, str]], age: float) -> Batch:
    fields = {"offset": 0.001, "rtt": 0.02, "stratum": 2, "sent": 1, "received": 1}
    ts = datetime.now(UTC) - timedelta(seconds=age)
    return new_batch(*(Result(server_id=server_id, ip=ip, ts=ts, **fields) for server_id, ip in servers))


async def publish(monitor: TestMonitor, made: Batch, one_in: int) -> None:
    """Publish a batch with the agent's own code."""
    link = BatchLink(lambda: monitor.session, TOPICS.results(monitor.name, "v4"), one_in)
    await link.publish_batch(Batched(id=made.id, results=len(made.results), created=0, payload=encode(made)))


@asynccontextmanager
async def observer(broker: Broker) -> AsyncIterator[list[Incoming]]:
    """Keep the events with results and scores."""
    heard: list[Incoming] = []
    session = BrokerSession(
        BrokerAddress("127.0.0.1", broker.port),
        Identity("observer", f"observer/{ULID()}"),
        lambda: broker.token(Role.OBSERVER, "observer"),
        subscriptions=[Subscription(f"{TOPICS.score_event(0).removesuffix('0')}{ANY}", heard.append)],
    )
    running = asyncio.create_task(session.run())
    try:
        await session.wait_ready()
        yield heard
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_one_trace_leads_from_the_probe_to_the_event_with_the_score(
    mariadb_engine: Engine, broker: Broker, tmp_path: Path
) -> None:
    name = f"m{ULID()}.test.mon.example".lower()
    untraced, *servers = await asyncio.to_thread(world, mariadb_engine, name)
    settings = worker_settings(broker, write_key(tmp_path, broker), mariadb_engine.url)
    with otlp_receiver() as receiver:
        exporting = settings | QUICKLY | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        with (
            WorkerProcess(tmp_path, "test", "ingest", **exporting) as ingest,
            WorkerProcess(tmp_path, "test", "scorer", **exporting) as scorer,
        ):
            await asyncio.to_thread(ingest.wait_for_log, "connected to")
            await asyncio.to_thread(scorer.wait_for_log, "connected to")
            async with connected_monitor(broker, name) as monitor, observer(broker) as heard:
                silent = batch([untraced], 5.0)
                await publish(monitor, silent, 0)
                await monitor.answer()
                await wait_until(lambda: heard, "an event without a trace")
                assert not heard.pop().user_properties
                made = batch(servers, 5.0)
                await publish(monitor, made, 1)
                ack = await monitor.answer()
                await wait_until(lambda: len(heard) >= SERVERS, "events with a trace")
                trace_id = f"{ids_of_batch(made.id).trace:032x}"
                await wait_until(
                    lambda: len(receiver.of_trace(trace_id).get("publish event", ())) >= 2 * SERVERS,
                    lambda: f"spans of all events; there are {receiver.of_trace(trace_id)}",
                )
        for worker in (ingest, scorer):
            assert "Traceback" not in worker.log_text()
        assert ack.batch == made.id
        check_trace(receiver, trace_id, heard, {server_id for server_id, _ in servers})
        assert not receiver.of_trace(f"{ids_of_batch(silent.id).trace:032x}")
        assert "ntppool.ingest.stored" in receiver.metrics
    with mariadb_engine.connect() as connection:
        assert connection.execute(sa.select(score_traces)).all() == []


def check_trace(receiver: OtlpReceiver, trace_id: str, heard: list[Incoming], servers: set[int]) -> None:
    """Check that the trace is complete, each span the child of the one before, and the events continue it."""
    spans = receiver.of_trace(trace_id)
    by_id = {span.span_id: span for found in spans.values() for span in found}
    assert {name: len(found) for name, found in spans.items() if name != "publish event"} == {
        "probe and deliver": 1,
        "receive batch": 1,
        "commit batch": 1,
        "score server": SERVERS,
    }
    [agent], [waiting], [committing] = (spans[n] for n in ("probe and deliver", "receive batch", "commit batch"))
    assert (agent.parent_id, waiting.parent_id, committing.parent_id) == ("", agent.span_id, waiting.span_id)
    assert 4.9 < (agent.end - agent.start) / 1e9 < 60
    assert {span.attributes["ntppool.server.id"] for span in spans["score server"]} == servers
    for scored in spans["score server"]:
        assert (scored.service, scored.parent_id) == ("ntppool-scorer", committing.span_id)
    for name, of_all in (("commit batch", "ingest transaction"), ("score server", "score round")):
        linked = {link for span in spans[name] for link in span.links}
        assert linked <= {span.trace_id for span in receiver.spans if span.name == of_all} and linked
    events = {context for event in heard if (context := find_trace_context(event.user_properties))}
    assert {f"{ids_of(context).trace:032x}" for context in events} == {trace_id}
    published = {f"{ids_of(context).span:016x}" for context in events}
    assert {by_id[by_id[span_id].parent_id].name for span_id in published} == {"score server"}
    assert in_order(agent, waiting, committing, *spans["score server"])


def in_order(*spans: ReceivedSpan) -> bool:
    """Return whether each span starts after the one before; those of the last kind start together."""
    return all(before.start <= after.start for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize("collector", ["refuses", "is silent"])
async def test_a_collector_that_is_away_delays_nothing_and_is_reported_once(
    sqlite_engine: Engine, broker: Broker, tmp_path: Path, collector: str
) -> None:
    name = f"m{ULID()}.test.mon.example".lower()
    servers = await asyncio.to_thread(world, sqlite_engine, name)
    settings = worker_settings(broker, write_key(tmp_path, broker), sqlite_engine.url)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = free_port() if collector == "refuses" else silent.getsockname()[1]
        away = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
        with WorkerProcess(tmp_path, "test", "ingest", **settings, **QUICKLY, **away) as ingest:
            await asyncio.to_thread(ingest.wait_for_log, "connected to")
            async with connected_monitor(broker, name) as monitor:
                await exchange(monitor, servers, range(10))
                for signal in ("traces", "metrics"):
                    await asyncio.to_thread(ingest.wait_for_log, f"{signal} cannot be exported")
                await exchange(monitor, servers, range(10, 20))
            log = ingest.log_text()
    assert log.count("traces cannot be exported") == log.count("metrics cannot be exported") == 1
    assert "Traceback" not in log and "opentelemetry" not in log


async def exchange(monitor: TestMonitor, servers: Sequence[tuple[int, str]], numbers: Iterable[int]) -> None:
    """Publish batches of different times, each with a trace, and wait for their acknowledgements."""
    for number in numbers:
        await publish(monitor, batch(servers, 600.0 * number), 1)
        await monitor.answer()
