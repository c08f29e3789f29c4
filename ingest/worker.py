"""Puts ingest together: subscriptions, commands and tasks, on the frame that every worker has."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from ingest.acks import Acks
from ingest.commit import Committer
from ingest.handlers import Reception
from ingest.jobs import keep_presence, keep_rates, keep_retention, keep_sightings, keep_status
from ingest.last_seen import Sightings
from ingest.messages import Presence
from ingest.metrics import CLOCK_IS_DOUBTED, Numbers
from ingest.presence import PresenceBook
from ingest.queue import Intake
from ingest.rate_limit import Throttle
from ingest.undecodable import Refusals
from runtime.clock import Clock
from runtime.mqtt.session import Incoming, Subscription
from runtime.worker import Worker
from schema.messages import ControlCommand
from schema.topics import ANY, shared

GROUP = "ingest"
"""Workers of this group share the results among them."""


async def start(worker: Worker, tasks: asyncio.TaskGroup) -> None:
    """Subscribes, adds the commands ``pause`` and ``resume``, and starts what ingest does."""
    intake, throttle, sightings = Intake(), Throttle(), Sightings()
    presences = PresenceBook(partial(hear_the_time, worker.clock))
    numbers = Numbers(worker.telemetry.meter, intake)
    acks = Acks(worker.broker, worker.topics, numbers)
    refusals = Refusals(worker, acks, numbers)
    committer = Committer(worker, intake, acks, refusals, sightings, numbers)
    _subscribe(worker, Reception(worker.topics, intake, throttle, presences, refusals, numbers), numbers)
    _add_commands(worker, committer)
    for name, work in (
        ("results", committer.run()),
        ("acks", acks.run()),
        ("refusals", refusals.run()),
        ("presence", keep_presence(worker, presences, sightings)),
        ("sightings", keep_sightings(worker, sightings)),
        ("rates", keep_rates(worker, throttle)),
        ("status", keep_status(worker, intake, throttle, committer, numbers)),
        ("retention", keep_retention(worker, numbers)),
    ):
        tasks.create_task(work, name=name)


def hear_the_time(clock: Clock, presence: Presence) -> None:
    """Takes the time that an agent tells just now; a last will tells none, and what the broker had kept an old one."""
    told = presence.status.ts
    if told is not None and not presence.retained:
        clock.hear(presence.name, (presence.arrived - told).total_seconds())


def _subscribe(worker: Worker, reception: Reception, numbers: Numbers) -> None:
    def take_results(message: Incoming) -> None:
        # The time of its arrival is what its results are judged by. Its sender keeps it, and sends it again.
        if worker.clock.trusted:
            reception.take_results(message)
        else:
            numbers.dropped(CLOCK_IS_DOUBTED)

    worker.broker.subscribe(Subscription(shared(GROUP, worker.topics.results(ANY, ANY)), take_results))
    # Not shared: the members of a group are not given what the broker has retained.
    worker.broker.subscribe(Subscription(worker.topics.status(ANY), reception.take_status))


def _add_commands(worker: Worker, committer: Committer) -> None:
    async def pause(order: ControlCommand) -> Mapping[str, Any]:
        committer.pause()
        return {"paused": True}

    async def resume(order: ControlCommand) -> Mapping[str, Any]:
        committer.resume()
        return {"paused": False}

    worker.control.add("pause", pause)
    worker.control.add("resume", resume)
