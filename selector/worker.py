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
from selector.drift import DriftWatch
from selector.metrics import SelectorMetrics
from selector.pairs import SWEEP_EVERY, PairLoop
from selector.publisher import Publisher
from selector.reconcile import Reconciler
from selector.review_loop import ReviewLoop
from selector.row_warnings import RowWarnings
from selector.triggers import make_due
from selector.watch import Watch


async def start(worker: Worker, tasks: asyncio.TaskGroup) -> None:
    """Starts the selector in ``tasks``."""
    metrics = SelectorMetrics(worker.telemetry.meter)
    row_warnings = RowWarnings(metrics.bad_rows)
    # What is lost is reconciled, and reconciling publishes: the one is made before the other, so it is named late.
    publisher = Publisher(worker, row_warnings, metrics, on_lost=lambda name: reconciler.mark(name))
    reconciler = Reconciler(worker, publisher, metrics)
    configs = ConfigPublisher(worker, metrics, on_unwanted=reconciler.mark)
    review_loop = ReviewLoop(worker, publisher, row_warnings, metrics)
    pair_loop = PairLoop(worker, review_loop, publisher, metrics)
    watch = Watch(worker, review_loop, pair_loop, reconciler, configs, row_warnings, metrics)
    agents = DriftWatch(worker, publisher, reconciler, row_warnings, known=watch.is_known)

    worker.broker.subscribe(Subscription(worker.topics.status(ANY), agents.on_status))
    _register_commands(worker, review_loop)
    await watch.load()
    watch.add_jobs()
    worker.jobs.add("pair sweep", SWEEP_EVERY, pair_loop.sweep)
    for name, loop in {
        "reviews": review_loop.run(),
        "publishing": review_loop.publish(),
        "population": pair_loop.run(),
        "reconciliation": reconciler.run(),
        "configs": configs.run(),
        "agents": agents.run(),
    }.items():
        tasks.create_task(loop, name=name)


def _register_commands(worker: Worker, review_loop: ReviewLoop) -> None:
    async def review(command: ControlCommand) -> Mapping[str, Any]:
        now = datetime.now(UTC)
        due = await worker.in_database(partial(make_due, worker.engine, command.server_id, now))
        if command.server_id is not None and not due:
            raise CommandRefused(f"server {command.server_id}: there is none with this id")
        review_loop.wake()
        return {"due": due}

    async def pause(command: ControlCommand) -> Mapping[str, Any]:
        await review_loop.pause()
        worker.status["paused"] = True
        return {"paused": True}

    async def resume(command: ControlCommand) -> Mapping[str, Any]:
        review_loop.resume()
        worker.status["paused"] = False
        return {"paused": False}

    worker.status["paused"] = False
    for name, command in {"review": review, "pause": pause, "resume": resume}.items():
        worker.control.add(name, command)
