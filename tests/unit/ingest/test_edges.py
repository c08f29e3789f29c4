"""Test ingest's edges: messages are queued or dropped, acks never wait forever, and refused content is isolated."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, ProgrammingError, StatementError
from ulid import ULID

from ingest import metrics as count
from ingest.acks import Acks
from ingest.commit import Committer, still_fresh
from ingest.handlers import Handlers
from ingest.jobs import RATES_VALID_FOR, RatesJob
from ingest.last_seen import LastSeen
from ingest.messages import UndecodableMessage
from ingest.metrics import IngestMetrics
from ingest.persist import ContentRefused, persist, persist_each
from ingest.plan import Known, make_plan
from ingest.presence import PresenceQueue
from ingest.queue import SubmissionQueue
from ingest.rate_limit import RateLimiter, Sender
from ingest.undecodable import UndecodableMessages
from runtime.clock import Clock
from runtime.db.metrics import DatabaseMetrics
from runtime.db.system_settings import PoolSettings
from runtime.health import Contact, Rounds
from runtime.mqtt.session import BrokerSession, Incoming, NotConnected
from runtime.retry import Delays
from runtime.worker import Doubts, Worker
from schema.messages import BatchCommitted, Rejection, Status, encode
from schema.topics import Topics
from testbed.fixtures.batches import ARRIVED, new_batch, new_result, new_submission
from testbed.waiting import wait_until

TOPICS = Topics("devel")
NAME = "nlams1.devel.mon.example"
RESULT = new_result(1, "192.0.2.1")


class Taken(UndecodableMessages):
    """Records the offered messages."""

    def __init__(self) -> None:
        self.offered: list[UndecodableMessage] = []

    def offer(self, unreadable: UndecodableMessage) -> None:
        self.offered.append(unreadable)


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock: on a slow machine, a monitor's budget would be replenished during the test."""
    monkeypatch.setattr("ingest.handlers.time", SimpleNamespace(monotonic=lambda: 1000.0))


@dataclass
class Desk:
    """Handlers, with the queues that they fill."""

    queue: SubmissionQueue = field(default_factory=lambda: SubmissionQueue(most_results=100))
    rate_limiter: RateLimiter = field(default_factory=RateLimiter)
    presences: PresenceQueue = field(default_factory=PresenceQueue)
    undecodable: Taken = field(default_factory=Taken)

    def __post_init__(self) -> None:
        self.metrics = IngestMetrics(NoOpMeter("test"), self.queue)
        self.handlers = Handlers(TOPICS, self.queue, self.rate_limiter, self.presences, self.undecodable, self.metrics)

    def results(self, payload: bytes, topic: str = TOPICS.results(NAME, "v4")) -> None:
        self.handlers.on_results(Incoming(topic, payload, correlation=None))

    def status(self, payload: bytes, topic: str = TOPICS.status(NAME)) -> None:
        self.handlers.on_status(Incoming(topic, payload))


def a_batch(results: int = 10) -> bytes:
    return encode(new_batch(*[RESULT] * results))


def test_batch_is_queued() -> None:
    desk = Desk()
    desk.results(a_batch())
    assert (len(desk.queue), desk.queue.results) == (1, 10)


def test_messages_on_foreign_topics_are_counted_as_ignored() -> None:
    desk = Desk()
    desk.results(a_batch(), "/devel/monitors/results/x/v5")
    desk.status(b"{}", "/devel/monitors/status/x/other")
    assert desk.metrics.totals == {count.IGNORED: 2}


def test_batch_is_dropped_and_counted_when_the_queue_is_full() -> None:
    desk = Desk()
    for _ in range(12):
        desk.results(a_batch())
    assert desk.queue.results == 100
    assert desk.metrics.totals == {count.QUEUE_FULL: 2}


def test_excess_batches_of_a_monitor_are_dropped() -> None:
    desk = Desk(queue=SubmissionQueue())
    allowed = 120
    for _ in range(allowed + 5):
        desk.results(a_batch())
    assert desk.metrics.totals[count.RATE_LIMITED] == 5
    assert len(desk.queue) == allowed


def test_undecodable_messages_are_charged_by_size() -> None:
    desk = Desk()
    big = b"x" * 500_000
    desk.results(big)
    desk.results(big)
    assert [unreadable.payload for unreadable in desk.undecodable.offered] == [big]
    assert desk.metrics.totals == {count.RATE_LIMITED: 1}
    desk.status(b"x")
    assert len(desk.undecodable.offered) == 2, "presence is not stopped by too many results"


def test_status_is_recorded_and_an_empty_one_is_ignored() -> None:
    desk = Desk()
    status = Status(online=True, ts=ARRIVED)
    desk.status(encode(status))
    desk.status(b"")
    assert [presence.status for presence in desk.presences.pop_all(ARRIVED)] == [status]
    assert desk.undecodable.offered == []


def test_excess_statuses_of_a_monitor_are_dropped() -> None:
    desk = Desk()
    for number in range(1_250):
        desk.status(encode(Status(online=True, ts=ARRIVED, version=str(number))))
    assert desk.metrics.totals[count.RATE_LIMITED] == 50
    [said] = desk.presences.pop_all(ARRIVED)
    assert said.status.version == "1199"


class Line:
    """Fake broker session that records published messages, or fails."""

    def __init__(self, *, up: bool = True) -> None:
        self.up = up
        self.gate = asyncio.Event()
        self.gate.set()
        self.published: list[tuple[str, bytes, dict[str, Any]]] = []

    async def publish(self, topic: str, payload: bytes, **properties: Any) -> None:
        await self.gate.wait()
        if not self.up:
            raise NotConnected("down")
        self.published.append((topic, payload, properties))


def new_acks(line: Line) -> tuple[Acks, IngestMetrics]:
    metrics = IngestMetrics(NoOpMeter("test"), SubmissionQueue())
    return Acks(cast(BrokerSession, line), TOPICS, metrics), metrics


NOBODY = Known(monitors={}, servers={}, pairs={}, batches={})
"""A ledger that knows no monitor."""


async def test_ack_carries_the_batch_id_and_the_trace_context() -> None:
    line = Line()
    acks, _ = new_acks(line)
    running = asyncio.create_task(acks.run())
    ack = BatchCommitted(batch=str(ULID()), stored=1)
    acks.offer(NAME, "v6", ack, "00-x")
    await wait_until(lambda: line.published)
    running.cancel()
    [(topic, payload, properties)] = line.published
    assert (topic, payload) == (TOPICS.acks(NAME, "v6"), encode(ack))
    assert properties == {"correlation": ack.batch.encode(), "user_properties": [("traceparent", "00-x")]}


async def test_unsendable_ack_is_discarded() -> None:
    line = Line(up=False)
    acks, metrics = new_acks(line)
    running = asyncio.create_task(acks.run())
    acks.offer(NAME, "v4", BatchCommitted(batch=str(ULID()), stored=1))
    await wait_until(lambda: metrics.totals[count.ACK_FAILED] == 1)
    line.up = True
    acks.offer(NAME, "v4", BatchCommitted(batch=str(ULID()), stored=2))
    await wait_until(lambda: line.published)
    running.cancel()
    assert len(line.published) == 1


async def test_waiting_acks_are_bounded_by_count_and_size() -> None:
    line = Line()
    line.gate.clear()
    acks, metrics = new_acks(line)
    small = BatchCommitted(batch=str(ULID()), stored=1)
    for _ in range(5_007):
        acks.offer(NAME, "v4", small)
    assert metrics.totals[count.ACKS_FULL] == 7
    acks, metrics = new_acks(line)
    rejected = [Rejection(index=i, server_id=1, reason="x" * 60) for i in range(1000)]
    large = BatchCommitted(batch=str(ULID()), stored=0, rejected=rejected)
    for _ in range(2**24 // len(encode(large)) + 3):
        acks.offer(NAME, "v4", large)
    assert metrics.totals[count.ACKS_FULL] == 3


class Database:
    """Fake worker: each attempt has the next of these outcomes."""

    def __init__(self, *outcomes: Exception | str) -> None:
        self.outcomes = list(outcomes)
        self.contact, self.doubts = Contact(), Doubts()
        self.database = DatabaseMetrics(NoOpMeter("test"))

    async def in_database(self, work: Any, judge_defect: Any = None) -> Any:
        return await Worker.in_database(cast(Worker, self), self._next, judge_defect)

    def _next(self) -> str:
        assert self.outcomes, "asked once more than expected"
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.worker.DATABASE_DELAYS", Delays(0.0, 0.0))


def of(kind: type[Any], code: int) -> Exception:
    error: Exception = kind("SELECT 1", {}, Exception(code, "what the server said"))
    return error


@pytest.mark.parametrize(
    "error",
    [
        of(DataError, 1264),
        of(IntegrityError, 1452),
        of(OperationalError, 1267),
        of(OperationalError, 1292),
        of(OperationalError, 4025),
        StatementError("no such parameter", "SELECT 1", {}, ValueError("x")),
        OverflowError("int too large"),
        KeyError("x"),
    ],
)
async def test_invalid_content_is_refused_at_once(error: Exception) -> None:
    database = Database(error)
    with pytest.raises(ContentRefused) as refused:
        await persist(cast(Worker, database), lambda: None)
    assert "SELECT" not in str(refused.value)


@pytest.mark.parametrize(
    "error",
    [of(OperationalError, 1213), of(OperationalError, 1290), of(OperationalError, 1114), of(ProgrammingError, 1146)],
)
@pytest.mark.usefixtures("_no_delays")
async def test_database_failures_other_than_content_are_retried(error: Exception) -> None:
    database = Database(error, error, "done")
    assert await persist(cast(Worker, database), lambda: None) == "done"


@pytest.mark.usefixtures("_no_delays")
async def test_unknown_errors_are_retried_no_more_than_the_given_attempts() -> None:
    unknown = of(OperationalError, 9999)
    database = Database(*[unknown] * 5, "done")
    with pytest.raises(ContentRefused):
        await persist(cast(Worker, database), lambda: None, attempts=3)
    assert len(database.outcomes) == 3
    assert await persist(cast(Worker, database), lambda: None) == "done"


class Picky:
    """Fake worker that refuses every write with an odd number in it."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.contact, self.doubts = Contact(), Doubts()
        self.database = DatabaseMetrics(NoOpMeter("test"))

    async def in_database(self, work: Any, judge_defect: Any = None) -> Any:
        return await Worker.in_database(cast(Worker, self), work, judge_defect)

    def write(self, metrics: Sequence[int]) -> int:
        if any(number % 2 for number in metrics):
            raise of(DataError, 1366)
        self.written.append(list(metrics))
        return len(metrics)


async def test_only_the_offending_items_of_a_joint_write_are_lost() -> None:
    worker, lost = Picky(), list[int]()

    def lose(number: int, why: str) -> None:
        assert "1366" in why
        lost.append(number)

    assert await persist_each(cast(Worker, worker), worker.write, [2, 4], lose) == [2]
    assert await persist_each(cast(Worker, worker), worker.write, [2, 3, 4, 5, 6], lose) == [1, 1, 1]
    assert await persist_each(cast(Worker, worker), worker.write, [7], lose) == []
    assert (worker.written, lost) == ([[2, 4], [2], [4], [6]], [3, 5, 7])


@pytest.mark.usefixtures("_no_delays")
async def test_items_refused_for_unknown_reasons_are_tried_once_each_and_lost() -> None:
    lost: list[int] = []
    database = Database(*[of(OperationalError, 9999)] * 4, "done", of(OperationalError, 9999))
    done = await persist_each(
        cast(Worker, database), lambda metrics: None, [2, 4, 6], lambda number, why: lost.append(number)
    )
    assert (done, lost, database.outcomes) == (["done"], [2, 6], [])


def test_undecodable_messages_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Neither alternating reasons of one sender nor many senders do; the lines contain the number of omitted ones."""
    metrics = IngestMetrics(NoOpMeter("test"), SubmissionQueue())
    undecodable = UndecodableMessages(cast(Worker, None), cast(Acks, None), metrics)
    for number in range(3_000):
        undecodable.offer(UndecodableMessage(TOPICS.status(NAME), b"", f"reason {number % 2}", NAME))
    assert len(caplog.messages) == 1
    began = time.monotonic()
    for number in range(3_000):
        undecodable.offer(UndecodableMessage(TOPICS.status(f"m{number}"), b"", "reason", f"m{number}"))
    assert len(caplog.messages) <= 10 + time.monotonic() - began
    assert "(and 2999 more since)" in caplog.messages[1]
    assert metrics.totals["unreadable"] == 6_000


async def test_unrelated_error_ends_the_worker() -> None:
    with pytest.raises(RuntimeError, match="no thread"):
        await persist(cast(Worker, Database(RuntimeError("no thread"))), lambda: None)


async def test_rates_are_looked_up_for_busy_senders_and_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    rate_limiter, asked = RateLimiter(), list[Sequence[Sender]]()
    now = time.monotonic()
    idle, busy = ("idle", "v4"), (NAME, "v4")
    rate_limiter.charge(idle, 1, now - 4_000)
    rate_limiter.charge(busy, 1_000, now)

    def look(worker: object, senders: Sequence[Sender]) -> dict[Sender, float]:
        asked.append(senders)
        return dict.fromkeys(senders, 25.0)

    monkeypatch.setattr("ingest.jobs._rates", look)
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("ingest.jobs.time", clock)
    job = RatesJob(cast(Worker, Picky()), rate_limiter)
    for seconds in (0.0, RATES_VALID_FOR - 1):
        clock.monotonic = partial(float, now + seconds)
        await job.run()
    assert asked == [[busy]]
    assert rate_limiter.senders() == [idle, busy]
    clock.monotonic = partial(float, now + RATES_VALID_FOR)
    await job.run()
    assert asked == [[busy], [busy]], "once more, since it may have changed"
    assert rate_limiter.senders() == [busy], "who is not heard of is forgotten"


async def test_stale_batches_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    fresh = new_submission(NAME, RESULT, arrived=now)
    stale = new_submission(NAME, RESULT, arrived=now - timedelta(minutes=61))
    metrics = IngestMetrics(NoOpMeter("test"), SubmissionQueue())
    monkeypatch.setattr("ingest.commit.commit", lambda engine, some, at, intervals: make_plan(NOBODY, some))
    worker = SimpleNamespace(
        telemetry=SimpleNamespace(tracer=NoOpTracer()),
        engine=None,
        pool=SimpleNamespace(get=PoolSettings),
        in_database=Picky().in_database,
        contact=Contact(),
        clock=Clock(),
        rounds=Rounds(),
        topics=TOPICS,
        live=SimpleNamespace(offer=lambda *args: None),
    )
    acks, _ = new_acks(Line())
    committer = Committer(cast(Worker, worker), SubmissionQueue(), acks, Taken(), LastSeen(), metrics)
    await committer._commit([stale, fresh, stale])
    assert metrics.totals["waited too long"] == 2
    assert metrics.totals["batches"] == 1


def test_stale_batches_are_left_out_of_the_transaction() -> None:
    now = datetime.now(UTC)
    fresh = new_submission(NAME, RESULT, arrived=now - timedelta(minutes=59))
    stale = new_submission(NAME, RESULT, arrived=now - timedelta(minutes=61))
    assert still_fresh([stale, fresh, stale]) == [fresh]
