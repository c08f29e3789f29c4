"""Name what the routes of the API work with."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.engine import Engine

from api.metrics import ApiMetrics
from auth.api_keys import Peppers
from auth.ca.authority import Authority
from auth.registration.store import Registrations
from auth.tokens import SigningKey
from runtime.settings import WorkerSettings
from schema.names import Environment


@dataclass(frozen=True, slots=True)
class Services:
    """Dependencies of the routes."""

    settings: WorkerSettings
    env: Environment
    engine: Engine
    registrations: Registrations
    peppers: Peppers
    signing_key: SigningKey
    """Signs the tokens for the broker."""
    authority: Authority
    metrics: ApiMetrics
    now: Callable[[], datetime]
    """Returns the current time, aware."""
