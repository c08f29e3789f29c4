"""Compose ingest: subscriptions, control commands and tasks of the worker."""

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
from ingest.tracing import TraceLimiter
from ingest.undecodable import UndecodableMessages
from runtime.clock import Clock
from runtime.mqtt.session import Incoming, Subscription
from runtime.worker import Worker
from schema.messages import ControlCommand
from schema.topics import ANY, shared

GROUP = "ingest"
"""Name of the group whose workers share the results (shared subscription)."""


async def start(worker: Worker, tasks: asyncio.TaskGroup) -> None:
    """Subscribe, add the commands ``pause`` and ``resume``, and start the tasks of ingest."""
    queue, rate_limiter, last_seen = SubmissionQueue(), RateLimiter(), LastSeen()
    presences = PresenceQueue(partial(compare_agents_clock, worker.clock))
    metrics = IngestMetrics(worker.telemetry.meter, queue)
    acks = Acks(worker.broker, worker.topics, metrics)
    undecodable = UndecodableMessages(worker, acks, metrics)
    committer = Committer(worker, queue, acks, undecodable, last_seen, metrics)
    traces = TraceLimiter() if worker.telemetry.tracing else None
    handlers = Handlers(worker.topics, queue, rate_limiter, presences, undecodable, metrics, traces)
    _subscribe(worker, handlers, metrics)
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
    """Compare the worker's clock with the time of a new status; a last will has no time, a retained one an old one."""
    sent = presence.status.ts
    if sent is not None and not presence.retained:
        clock.record_agent(presence.name, (presence.arrived - sent).total_seconds())


def _subscribe(worker: Worker, handlers: Handlers, metrics: IngestMetrics) -> None:
    def on_results(message: Incoming) -> None:
        # The results are validated by the time of arrival. The sender keeps a dropped batch and sends it again.
        if worker.clock.trusted:
            handlers.on_results(message)
        else:
            metrics.dropped(CLOCK_IS_DOUBTED)

    worker.broker.subscribe(Subscription(shared(GROUP, worker.topics.results(ANY, ANY)), on_results))
    # Not shared, since the members of a group do not receive retained messages.
    worker.broker.subscribe(Subscription(worker.topics.status(ANY), handlers.on_status))


def _add_commands(worker: Worker, committer: Committer) -> None:
    async def pause(command: ControlCommand) -> Mapping[str, Any]:
        committer.pause()
        return {"paused": True}

    async def resume(command: ControlCommand) -> Mapping[str, Any]:
        committer.resume()
        return {"paused": False}

    worker.control.add("pause", pause)
    worker.control.add("resume", resume)
