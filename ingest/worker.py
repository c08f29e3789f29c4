"""Puts ingest together: subscriptions, commands and tasks, on the frame that every worker has."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from ingest.acks import Acks
from ingest.commit import Committer
from ingest.handlers import Handlers
from ingest.jobs import add_jobs, begin_retention
from ingest.last_seen import LastSeen
from ingest.messages import Presence
from ingest.metrics import CLOCK_IS_DOUBTED, IngestMetrics
from ingest.presence import PresenceQueue
from ingest.queue import SubmissionQueue
from ingest.rate_limit import RateLimiter
from ingest.undecodable import UndecodableMessages
from runtime.clock import Clock
from runtime.mqtt.session import Incoming, Subscription
from runtime.worker import Worker
from schema.messages import ControlCommand
from schema.topics import ANY, shared

GROUP = "ingest"
"""Workers of this group share the results among them."""


async def start(worker: Worker, tasks: asyncio.TaskGroup) -> None:
    """Subscribes, adds the commands ``pause`` and ``resume``, and starts what ingest does."""
    queue, rate_limiter, last_seen = SubmissionQueue(), RateLimiter(), LastSeen()
    presences = PresenceQueue(partial(compare_agents_clock, worker.clock))
    metrics = IngestMetrics(worker.telemetry.meter, queue)
    acks = Acks(worker.broker, worker.topics, metrics)
    undecodable = UndecodableMessages(worker, acks, metrics)
    committer = Committer(worker, queue, acks, undecodable, last_seen, metrics)
    _subscribe(worker, Handlers(worker.topics, queue, rate_limiter, presences, undecodable, metrics), metrics)
    _add_commands(worker, committer)
    add_jobs(
        worker,
        queue=queue,
        committer=committer,
        rate_limiter=rate_limiter,
        presences=presences,
        last_seen=last_seen,
        metrics=metrics,
    )
    for name, work in (
        ("results", committer.run()),
        ("acks", acks.run()),
        ("undecodable", undecodable.run()),
        ("retention", begin_retention(worker, metrics)),
    ):
        tasks.create_task(work, name=name)


def compare_agents_clock(clock: Clock, presence: Presence) -> None:
    """Takes the time that an agent tells just now; a last will tells none, and what the broker had kept an old one."""
    told = presence.status.ts
    if told is not None and not presence.retained:
        clock.hear(presence.name, (presence.arrived - told).total_seconds())


def _subscribe(worker: Worker, handlers: Handlers, metrics: IngestMetrics) -> None:
    def on_results(message: Incoming) -> None:
        # The time of its arrival is what its results are judged by. Its sender keeps it, and sends it again.
        if worker.clock.trusted:
            handlers.on_results(message)
        else:
            metrics.dropped(CLOCK_IS_DOUBTED)

    worker.broker.subscribe(Subscription(shared(GROUP, worker.topics.results(ANY, ANY)), on_results))
    # Not shared: the members of a group are not given what the broker has retained.
    worker.broker.subscribe(Subscription(worker.topics.status(ANY), handlers.on_status))


def _add_commands(worker: Worker, committer: Committer) -> None:
    async def pause(order: ControlCommand) -> Mapping[str, Any]:
        committer.pause()
        return {"paused": True}

    async def resume(order: ControlCommand) -> Mapping[str, Any]:
        committer.resume()
        return {"paused": False}

    worker.control.add("pause", pause)
    worker.control.add("resume", resume)
