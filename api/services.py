"""Hold what the routes and pages of the API use; made once per process."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.engine import Engine

from api.metrics import ApiMetrics
from auth.api_keys import Peppers
from auth.ca.authority import Authority
from auth.ca.settings import open_authority
from auth.registration.store import Registrations
from auth.settings import peppers, signing_key
from auth.tokens import SigningKey
from runtime.db.engine import from_db
from runtime.settings import WorkerSettings
from runtime.worker import Worker
from schema.names import Environment


@dataclass(frozen=True, slots=True)
class Services:
    """Dependencies of the routes and pages."""

    settings: WorkerSettings
    env: Environment
    engine: Engine
    registrations: Registrations
    peppers: Peppers
    signing_key: SigningKey
    """Signs tokens."""
    authority: Authority
    metrics: ApiMetrics
    now: Callable[[], datetime]
    """Returns the current time, with its zone. Raises :class:`runtime.clock.ClockDoubted`, which becomes a 503: what is
    signed or stored with a wrong time would be wrong for long."""


def build_services(worker: Worker) -> Services:
    """Return the services of this process.

    Raises:
        ConfigurationError: a key or secret is missing or invalid.
    """
    settings, env = worker.settings, worker.settings.deployment_mode
    known = peppers(settings)
    return Services(
        settings=settings,
        env=env,
        engine=worker.engine,
        registrations=Registrations(worker.engine, env, settings.monitor_domain, known),
        peppers=known,
        signing_key=signing_key(settings),
        authority=open_authority(settings),
        metrics=ApiMetrics(worker.telemetry.meter),
        now=lambda: from_db(worker.clock.now()),
    )
