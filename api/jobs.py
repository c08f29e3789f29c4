"""Run the API's periodic jobs: the end of registrations, the CA's public files, new certificates of its own, the number
of agents, and the keys that a change of the pepper has made void."""

import logging
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Final

from api.published import LOOK_EVERY, Published
from api.revocations import REVOCATIONS_EVERY, revocations_job
from api.services import Services
from api.watched import count_agents
from auth.ended_sessions import forget_ended_sessions
from auth.host_certificates import forget_private_keys
from auth.void_keys import VoidKeys, find_void_keys
from runtime.db.engine import reading, to_db, transaction
from runtime.http.tls import LOOK_EVERY as LOOK_AT_FILES_EVERY
from runtime.http.tls import ServerTls
from runtime.worker import Worker

log = logging.getLogger(__name__)

PEPPER_EVERY: Final = 3600.0
AGENTS_EVERY: Final = 30.0
EXPIRE_EVERY: Final = 3600.0
_JITTER: Final = 300.0


def add_jobs(worker: Worker, services: Services, published: Published, tls: ServerTls | None) -> None:
    """Add the jobs to the worker."""

    async def expire() -> None:
        await worker.in_database(partial(end_registrations, services, services.now()))

    async def publish() -> None:
        await worker.in_database(partial(published.refresh, services.now()))

    async def count() -> None:
        services.metrics.agents(await worker.in_database(partial(_count_agents, services)))

    async def look_for_void_keys() -> None:
        found = await worker.in_database(partial(_void_keys, services))
        worker.status["void_keys"] = 0 if found is None else found.count
        if found is not None:
            log.error("%s", found)

    async def reload() -> None:
        if tls is not None:
            tls.reload()

    worker.jobs.add(
        "registrations", EXPIRE_EVERY, expire, at_once=True, jitter_seconds=_JITTER, when=worker.undisturbed
    )
    worker.jobs.add("revocation list", LOOK_EVERY, publish, at_once=True, when=worker.undisturbed)
    worker.jobs.add("revocations", REVOCATIONS_EVERY, revocations_job(worker), at_once=True, when=worker.undisturbed)
    worker.jobs.add("agents", AGENTS_EVERY, count, at_once=True, when=worker.undisturbed)
    worker.jobs.add("pepper", PEPPER_EVERY, look_for_void_keys, at_once=True, when=worker.undisturbed)
    if tls is not None:
        worker.jobs.add("certificate files", LOOK_AT_FILES_EVERY, reload)


def _count_agents(services: Services) -> Mapping[str, int]:
    with reading(services.engine) as connection:
        return count_agents(connection, services.env, to_db(services.now()))


def _void_keys(services: Services) -> VoidKeys | None:
    with reading(services.engine) as connection:
        return find_void_keys(connection, services.peppers, services.now())


def end_registrations(services: Services, now: datetime) -> None:
    """End old registrations, and remove secrets that are no longer repeated and sessions that ended long ago."""
    services.registrations.expire(now)
    transaction(services.engine, lambda connection: forget_private_keys(connection, now))
    transaction(services.engine, lambda connection: forget_ended_sessions(connection, now))
