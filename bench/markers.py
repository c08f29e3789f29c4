"""Watch the scores of marker servers: each has only one monitor, so every result gives a score that is known in
advance.

The ledger is polled repeatedly. The measured times include the polling interval, so they are never too short.
"""

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from agent.delivery.ulid import new_ulid
from auth.tokens import Role, SigningKey, token_source
from bench.world import ENV, monitor_name, server_ip
from runtime.db.engine import reading, utc_now
from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity
from schema.messages import Batch, encode
from schema.tables import monitors, server_scores, servers
from schema.topics import Topics
from scorer.formula import next_score, step
from testbed.checker.replay import same
from testbed.load.record import Record
from testbed.load.spec import Target
from testbed.load.traffic import VERSION, Made, measure

MARKERS: Final = 60
FIRST: Final = 200_000
"""The id of the first marker server."""

GOOD: Final = 3
"""Remainder, modulo 20, of the ids of servers that are always good (see :func:`testbed.load.traffic.measure`)."""

_BATCH: Final = 10
_BATCH_EVERY: Final = 0.6
"""Seconds. Ingest lets any monitor send 20 results per second, and more only if it has more servers."""

_INTERVAL: Final = timedelta(minutes=9)
_PAST: Final = timedelta(days=2)
"""Age of a marker's first result: time for 320 of them."""

_LOOK_EVERY: Final = 0.01
_GIVE_UP: Final = 30.0


@dataclass(slots=True)
class _Marker:
    target: Target
    score: float = 0.0
    results: int = 0
    """Number of results sent."""
    sent: float | None = None
    """Time of the outstanding result's publish; Unix time."""


@dataclass(slots=True)
class Watched:
    """The measurements, in seconds."""

    latencies: list[float] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    """Between two polls."""
    missing: int = 0
    """Results that never appeared."""


def add_markers(engine: Engine, monitor_id: int) -> list[Target]:
    """Add the servers and their only monitor to the ledger."""
    now = utc_now().replace(microsecond=0)
    ids = range(FIRST + GOOD, FIRST + GOOD + 20 * MARKERS, 20)
    with engine.begin() as connection:
        name = {"id": monitor_id, "tls_name": monitor_name(monitor_id), "ip_version": "v4", "ip": "9.9.9.9"}
        connection.execute(sa.insert(monitors).values(name | {"status": "active", "config": "{}", "created_on": now}))
        rows = [{"id": server_id, "ip": server_ip(server_id), "created_on": now} for server_id in ids]
        connection.execute(sa.insert(servers), rows)
        pair = {"monitor_id": monitor_id, "status": "active", "created_on": now}
        connection.execute(sa.insert(server_scores), [pair | {"server_id": server_id} for server_id in ids])
    return [Target(server_id, server_ip(server_id), 1.0) for server_id in ids]


class Watch:
    """Publish results of the markers, and wait for their scores in the ledger."""

    def __init__(
        self,
        engine: Engine,
        address: BrokerAddress,
        key: SigningKey,
        record: Record,
        monitor_id: int,
        targets: Sequence[Target],
    ) -> None:
        self._engine = engine
        self._record = record
        self._name = monitor_name(monitor_id)
        self._topic = Topics(ENV).results(self._name, "v4")
        self._markers = {target.server_id: _Marker(target) for target in targets}
        self._lock = threading.Lock()
        self._rng = random.Random(7)
        self._session = BrokerSession(
            address, Identity(self._name, self._name), token_source(key, Role.MONITOR, self._name, ENV)
        )
        self.found = Watched()

    async def run(self, seconds: float) -> Watched:
        """Publish for this long, wait for outstanding results, and return the measurements."""
        complete = threading.Event()
        session = asyncio.create_task(self._session.run())
        looking = asyncio.create_task(asyncio.to_thread(self._look, complete))
        try:
            await self._session.wait_ready()
            await self._publish(seconds)
        finally:
            complete.set()
            await looking
            session.cancel()
            await asyncio.wait({session})
        return self.found

    async def _publish(self, seconds: float) -> None:
        """Publish batches of the markers whose last score has appeared, for this long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            free = [marker for marker in self._markers.values() if marker.sent is None]
            if len(free) >= _BATCH:
                await self._send(self._rng.sample(free, _BATCH))
            await asyncio.sleep(_BATCH_EVERY)

    async def _send(self, markers: Sequence[_Marker]) -> None:
        made = self._batch(markers, datetime.now(UTC))
        self._record.sent(time.time_ns(), self._name, "v4", made)
        with self._lock:
            now = time.time()
            for marker, result in zip(markers, made.results, strict=True):
                marker.score = next_score(marker.score, step(result))
                marker.sent = now
        await self._session.publish(self._topic, made.payload, correlation=made.id.encode())

    def _batch(self, markers: Sequence[_Marker], now: datetime) -> Made:
        # Each result of a pair is later than the previous one, since the latest result determines the score, and by the
        # pool's interval, since it would come too soon otherwise.
        results = [measure(marker.target, now - _PAST + marker.results * _INTERVAL, self._rng) for marker in markers]
        for marker in markers:
            marker.results += 1
        batch = Batch(id=new_ulid(time.time_ns()), version=VERSION, results=results)
        return Made(batch.id, "plain", encode(batch), results)

    def _look(self, complete: threading.Event) -> None:
        """Poll until publishing has ended and all results have appeared or been given up."""
        query = sa.select(servers.c.id, servers.c.score_raw).where(servers.c.id.in_(list(self._markers)))
        last, give_up = time.monotonic(), float("inf")
        with reading(self._engine) as connection:
            while last < give_up:
                time.sleep(_LOOK_EVERY)
                scores = connection.execute(query).all()
                seen, now = time.time(), time.monotonic()
                self.found.looks.append(now - last)
                last = now
                with self._lock:
                    for server_id, score in scores:
                        self._compare(self._markers[server_id], score, seen)
                    self.found.missing = sum(marker.sent is not None for marker in self._markers.values())
                if complete.is_set():
                    give_up = min(give_up, now + _GIVE_UP) if self.found.missing else now

    def _compare(self, marker: _Marker, score: float, seen: float) -> None:
        if marker.sent is not None and same(score, marker.score):
            self.found.latencies.append(seen - marker.sent)
            marker.sent = None
