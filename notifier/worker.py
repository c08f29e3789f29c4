"""Compose the notifier's worker: evaluate alerts, compose messages, deliver them.

What concerns the database, the broker and the clock is watched from the start of the process, before the database is
reached, and kept in a file. All other alerts are in the ledger. Any number of notifiers may run: each round of
evaluation belongs to one of them, and so does each attempt to send a message.
"""

import asyncio
import logging
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy.engine import Connection

from auth.settings import peppers
from notifier.channels import Channel, read_channels
from notifier.delivery import Delivery
from notifier.evaluation import Evaluated, Terms, evaluate_ledger
from notifier.foundation import Foundation, NodeProbes, node_urls
from notifier.local import LocalAlerts
from notifier.messages import UNREADABLE, unreadable
from notifier.metrics import NotifierMetrics
from notifier.outbox import Waiting, waiting
from notifier.senders import Senders
from notifier.settings import links, sender_settings
from runtime.db.engine import reading, transaction, utc_now
from runtime.settings import server_state_directory
from runtime.threads import in_thread
from runtime.worker import Worker

log = logging.getLogger(__name__)

EVALUATE_EVERY: Final = 15.0
COMPOSE_EVERY: Final = 5.0
WATCH_EVERY: Final = 5.0
PROBE_EVERY: Final = 15.0
COUNT_EVERY: Final = 15.0
DECRYPT_EVERY: Final = 3600.0

STATE_FILE: Final = "notifier.json"


class Notifier:
    """The parts of one notifier."""

    def __init__(self, worker: Worker) -> None:
        settings = worker.settings
        self._worker = worker
        self._metrics = NotifierMetrics(worker.telemetry.meter)
        self._local = LocalAlerts(_state_file(worker), settings.deployment_mode)
        self._foundation = Foundation(worker)
        self._senders = Senders(sender_settings(settings))
        self._peppers = peppers(settings)
        self._delivery = Delivery(worker, self._local, self._senders, self._peppers, self._metrics)
        nodes = settings.alert_database_nodes
        self._nodes = node_urls(worker.engine.url, nodes)
        self._probes = NodeProbes(self._nodes, lambda: node_urls(settings.database_url(), nodes))
        self._links = links(settings)
        self._raised: dict[str, int] = {}

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Start what must not wait for the database."""
        worker = self._worker
        worker.jobs.add("foundation", WATCH_EVERY, self.watch, at_once=True)
        if self._nodes:
            worker.jobs.add("database nodes", PROBE_EVERY, self.probe, at_once=True)
        tasks.create_task(self._run_local(), name="local messages")

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start the rest."""
        worker = self._worker
        self._foundation.expect_broker()
        worker.jobs.add("evaluation", EVALUATE_EVERY, self.evaluate, at_once=True, when=worker.clock.agreed)
        worker.jobs.add("digests", COMPOSE_EVERY, self._delivery.compose, when=worker.clock.agreed)
        worker.jobs.add("channels", DECRYPT_EVERY, self.look_for_unreadable, at_once=True, when=worker.undisturbed)
        worker.jobs.add("outbox", COUNT_EVERY, self.count, at_once=True, when=worker.undisturbed)
        tasks.create_task(self._delivery.run(), name="messages")

    async def _run_local(self) -> None:
        async with self._senders.running():
            await self._delivery.run_local()

    async def watch(self) -> None:
        """Watch the foundation. A periodic job."""
        now = utc_now()
        facts = self._foundation.facts(now)
        if self._local.acquire():
            self._metrics.changed(self._local.observe(facts, now))
            self._delivery.wake_local()
        self._show()

    async def probe(self) -> None:
        """Ask all nodes of the database. A periodic job."""
        self._foundation.nodes = await in_thread(self._probes.ask, "database nodes")

    async def evaluate(self) -> None:
        """Evaluate the alerts of the ledger. A periodic job."""
        worker = self._worker
        found = await worker.in_database(lambda: transaction(worker.engine, self._evaluate))
        if found is None:
            return
        self._raised = dict(found.raised)
        self._metrics.changed(found.evaluation.changes)
        self._local.set_channels(found.channels)
        if found.evaluation.changes:
            await self._delivery.compose()
        self._show()

    def _evaluate(self, connection: Connection) -> Evaluated | None:
        minutes = timedelta(minutes=self._worker.settings.alert_no_results_minutes)
        intervals = self._worker.pool.get().monitors
        return evaluate_ledger(connection, utc_now(), Terms(self._links, minutes, intervals, self._foundation.settled))

    async def count(self) -> None:
        """Count what waits. A periodic job."""
        found = await self._worker.in_database(self._read_waiting)
        oldest = _age(found.oldest, utc_now())
        self._metrics.waiting(found.changes, oldest, found.failing)
        self._worker.status.update(waiting=found.changes, on_their_way=found.messages, failing_channels=found.failing)

    async def look_for_unreadable(self) -> None:
        """Report the channels that a change of the pepper has made void, before an alert is lost. A periodic job."""
        found = await self._worker.in_database(self._unreadable)
        self._worker.status["unreadable_channels"] = [channel.id for channel in found]
        for channel in found:
            log.error("channel %d (%s): %s", channel.id, channel.shown, UNREADABLE)

    def _unreadable(self) -> list[Channel]:
        with reading(self._worker.engine) as connection:
            return unreadable(read_channels(connection), self._peppers)

    def _read_waiting(self) -> Waiting:
        with reading(self._worker.engine) as connection:
            return waiting(connection)

    def _show(self) -> None:
        raised = dict(self._raised)
        for alert in self._local.raised:
            raised[alert.key.kind] = raised.get(alert.key.kind, 0) + 1
        self._metrics.raised(raised)
        self._worker.status["raised"] = raised


def _age(moment: datetime | None, now: datetime) -> float:
    return 0.0 if moment is None else max(0.0, (now - moment).total_seconds())


def _state_file(worker: Worker) -> Path:
    directory = server_state_directory(worker.settings.deployment_mode)
    with suppress(OSError):  # the first write reports it
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory / STATE_FILE


class Starting:
    """Makes the parts once, for the two functions that start them."""

    def __init__(self) -> None:
        self._notifier: Notifier | None = None

    async def begin(self, worker: Worker, tasks: asyncio.TaskGroup) -> None:
        """Start what must not wait for the database."""
        self._notifier = Notifier(worker)
        self._notifier.begin(tasks)

    async def start(self, worker: Worker, tasks: asyncio.TaskGroup) -> None:
        """Start the rest."""
        assert self._notifier is not None, "it has begun"
        self._notifier.start(tasks)
