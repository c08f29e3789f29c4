"""What operators run by hand: reviews at once, and a review that only says what it would do.

:func:`once` and :func:`simulate` are ``ntppool-monitor selector once`` and ``selector simulate``.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer
from sqlalchemy.engine import Engine

from runtime.broker_types import TokenSource
from runtime.database import reading
from runtime.pool_settings import PoolSettingsReader
from runtime.settings import WorkerSettings
from runtime.telemetry import Telemetry
from runtime.worker import Worker, assemble, require_migrated
from selector import explain
from selector.complaints import Complaints
from selector.model import Review
from selector.numbers import Numbers
from selector.parse import BadRow
from selector.publishing import Publisher
from selector.reviewer import BATCH, Reviewed, judge, review_due, review_server, rule_settings
from selector.store import Pair, read_inputs

CONNECT_TIMEOUT: Final = 15.0
"""Seconds that :func:`once` waits for the broker."""


class CannotReview(Exception):
    """There is no such server, or its row cannot be used; the message says which."""


@dataclass(frozen=True, slots=True)
class Once:
    """What :func:`once` did. ``untold`` are the monitors that could not be told; a running selector will do it."""

    reviewed: tuple[Reviewed, ...]
    untold: frozenset[str]


@dataclass(frozen=True, slots=True)
class Simulation:
    """A review that was not written: rule by rule why each monitor moves or stays."""

    review: Review

    def text(self) -> str:
        """For people."""
        return explain.as_text(self.review)

    def data(self) -> dict[str, Any]:
        """For machines, in JSON's types."""
        return explain.as_dict(self.review)


async def once(settings: WorkerSettings, token: TokenSource, server_id: int | None = None) -> Once:
    """Reviews one server now, due or not, or all that are due; writes what changes and tells the agents.

    Raises:
        CannotReview: there is no such server.
        ConfigurationError: a setting is wrong, or the database lacks migrations.
        DatabaseUnavailable: the database cannot be reached.
    """
    worker = assemble("selector", settings, token, Telemetry(NoOpMeter("selector"), NoOpTracer()))
    try:
        await asyncio.to_thread(require_migrated, worker.engine)
        reviewed = await asyncio.to_thread(review_once, worker.engine, server_id)
        touched = [pair for one in reviewed for pair in one.touched]
        untold = await _tell(worker, touched) if touched else frozenset[str]()
    finally:
        worker.engine.dispose()
    return Once(tuple(reviewed), untold)


def review_once(engine: Engine, server_id: int | None = None) -> list[Reviewed]:
    """Reviews one server now, due or not, or all that are due; writes what changes, and tells nobody.

    Raises:
        CannotReview: there is no such server.
        DatabaseUnavailable: the database cannot be reached.
    """
    reviews, now = PoolSettingsReader(engine).get().selector, datetime.now(UTC)
    if server_id is not None:
        one = review_server(engine, server_id, reviews, now)
        if one is None:
            raise CannotReview(f"server {server_id}: there is none with this id")
        return [one]
    done: list[Reviewed] = []
    while some := review_due(engine, reviews, now, BATCH):
        done += some
    return done


def simulate(engine: Engine, server_id: int) -> Simulation:
    """What a review of this server would decide now. Changes nothing.

    Raises:
        CannotReview: there is no such server, it is deleted, or its row cannot be used.
        sqlalchemy.exc.DBAPIError: the database failed.
    """
    reviews, now = PoolSettingsReader(engine).get().selector, datetime.now(UTC)
    with reading(engine) as connection:
        found = read_inputs(connection, [server_id], now).get(server_id)
    if found is None:
        raise CannotReview(f"server {server_id}: there is none with this id")
    if found.deleted(now):
        raise CannotReview(f"server {server_id}: was deleted on {found.deletion_on}, so it is not reviewed")
    try:
        return Simulation(judge(found, rule_settings(reviews), now))
    except BadRow as bad:
        raise CannotReview(f"server {server_id}: {bad}") from bad


async def _tell(worker: Worker, touched: list[Pair]) -> frozenset[str]:
    """Publishes, as far as the broker can be reached; returns the monitors that were not told."""
    untold: set[str] = set()
    publisher = Publisher(worker, Complaints(), Numbers(worker.telemetry.meter), on_lost=untold.add)
    session = asyncio.create_task(worker.broker.run(), name="broker session")
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await worker.broker.wait_ready()
        await publisher.publish_pairs(touched)
    finally:
        session.cancel()
        with suppress(asyncio.CancelledError):
            await session
    return frozenset(untold)
