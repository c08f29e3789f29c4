"""The selector's worker: reviews servers when they are due, and keeps what agents are told as the ledger has it.

Reviews take what is due and hand what changed to publishing, which tells the agents after the commit. The watch looks
at the ledger: what changes of monitors makes servers due, pairs missing, and settings new. Reconciliation, and the
comparison with what agents say they hold, repair what got lost on the way. Any number of selectors may run: a review
is claimed in the database, and everything else may be done twice.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from runtime.control import CommandRefused
from runtime.mqtt.types import Subscription
from runtime.worker import Worker
from schema.messages import ControlCommand
from schema.topics import ANY
from selector.config_publisher import ConfigPublisher
from selector.drift import AgentWatch
from selector.metrics import Numbers
from selector.pairs import Populating
from selector.publisher import Publisher
from selector.reconcile import Reconciler
from selector.review_loop import Reviewing
from selector.row_warnings import RowWarnings
from selector.triggers import make_due
from selector.watch import Watch


async def start(worker: Worker, tasks: asyncio.TaskGroup) -> None:
    """Starts the selector in ``tasks``."""
    numbers = Numbers(worker.telemetry.meter)
    row_warnings = RowWarnings(numbers.bad_rows)
    # What is lost is reconciled, and reconciling publishes: the one is made before the other, so it is named late.
    publisher = Publisher(worker, row_warnings, numbers, on_lost=lambda name: reconciler.mark(name))
    reconciler = Reconciler(worker, publisher, numbers)
    configs = ConfigPublisher(worker, numbers, on_unwanted=reconciler.mark)
    reviewing = Reviewing(worker, publisher, row_warnings, numbers)
    populating = Populating(worker, reviewing, publisher, numbers)
    watch = Watch(worker, reviewing, populating, reconciler, configs, row_warnings, numbers)
    agents = AgentWatch(worker, publisher, reconciler, row_warnings, known=watch.knows)

    worker.broker.subscribe(Subscription(worker.topics.status(ANY), agents.hear))
    _take_orders(worker, reviewing)
    await watch.learn()
    for name, loop in {
        "reviews": reviewing.run(),
        "publishing": reviewing.publish(),
        "watch": watch.run(),
        "population": populating.run(),
        "reconciliation": reconciler.run(),
        "configs": configs.run(),
        "agents": agents.run(),
    }.items():
        tasks.create_task(loop, name=name)


def _take_orders(worker: Worker, reviewing: Reviewing) -> None:
    async def review(order: ControlCommand) -> Mapping[str, Any]:
        now = datetime.now(UTC)
        due = await worker.in_database(partial(make_due, worker.engine, order.server_id, now))
        if order.server_id is not None and not due:
            raise CommandRefused(f"server {order.server_id}: there is none with this id")
        reviewing.wake()
        return {"due": due}

    async def pause(order: ControlCommand) -> Mapping[str, Any]:
        await reviewing.pause()
        worker.status["paused"] = True
        return {"paused": True}

    async def resume(order: ControlCommand) -> Mapping[str, Any]:
        reviewing.resume()
        worker.status["paused"] = False
        return {"paused": False}

    worker.status["paused"] = False
    for name, command in {"review": review, "pause": pause, "resume": resume}.items():
        worker.control.add(name, command)
