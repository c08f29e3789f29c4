"""Compose the selector's worker, which reviews due servers and publishes the assignments.

The review loop reviews due servers and passes their changes to the publisher, which publishes them after the commit.
The watch checks the ledger for changed monitors, missing pairs and new settings. Reconciliation and the comparison with
the agents' status messages repair lost messages. A job judges the health of monitors every hour. Any number of
selectors may run: reviews and the job are claimed in the database, and everything else is idempotent.
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
from selector.health.job import HealthJob
from selector.metrics import SelectorMetrics
from selector.pairs import SWEEP_EVERY, PairLoop
from selector.publisher import Publisher
from selector.reconcile import Reconciler
from selector.review_loop import ReviewLoop
from selector.row_warnings import RowWarnings
from selector.triggers import make_due
from selector.watch import Watch


async def start(worker: Worker, tasks: asyncio.TaskGroup) -> None:
    """Start the selector in ``tasks``."""
    metrics = SelectorMetrics(worker.telemetry.meter)
    row_warnings = RowWarnings(metrics.bad_rows)
    # Publisher and reconciler refer to each other, so the reference to the reconciler is resolved late.
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
    HealthJob(worker, metrics).add_jobs()
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
            raise CommandRefused(f"server {command.server_id}: no such server")
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
