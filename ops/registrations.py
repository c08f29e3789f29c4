"""Show registrations and API keys to operators, and find what they name."""

import os
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from auth.api_key_store import ListedKey
from auth.registration.model import Confirmer, Outcome, Problem, Shown
from auth.registration.store import Registrations
from auth.settings import peppers
from auth.void_keys import find_void_keys
from ops.errors import OperatorError, UsageError
from ops.ids import parse_id
from ops.output import Layout, print_error
from runtime.settings import ConfigurationError, WorkerSettings
from schema.names import short_name
from schema.tables import registration_sources

STATUSES: Final = ("pending", "accepted", "completed", "rejected", "cancelled")


def registrations_at(engine: sa.Engine, settings: WorkerSettings) -> Registrations:
    """Return the registrations of the settings' environment.

    Raises:
        ConfigurationError: there is no pepper.
    """
    return Registrations(engine, settings.deployment_mode, settings.monitors_domain, peppers(settings))


def warn_of_void_keys(connection: Connection, settings: WorkerSettings) -> None:
    """Say on stderr that keys were made under a pepper that the settings do not have; nothing without a pepper."""
    try:
        known = peppers(settings)
    except ConfigurationError:
        return
    found = find_void_keys(connection, known, datetime.now(UTC))
    if found is not None:
        print_error(str(found))


def operator() -> Confirmer:
    """Return the operator at this terminal, as the ledger will name them."""
    user = os.environ.get("SUDO_USER") or os.environ.get("USER") or ""
    return Confirmer(f"operator {user}".strip(), operator=True)


def parse_outcome(text: str | None) -> Outcome | None:
    """Return the outcome called ``text``.

    Raises:
        UsageError: there is no such outcome.
    """
    try:
        return None if text is None else Outcome(text)
    except ValueError:
        raise UsageError(f"--outcome {text!r}: must be one of {', '.join(Outcome)}") from None


def parse_status(text: str | None) -> Any:
    """Return the status called ``text``.

    Raises:
        UsageError: there is no such status.
    """
    if text is not None and text not in STATUSES:
        raise UsageError(f"--status {text!r}: must be one of {', '.join(STATUSES)}")
    return text


def find_registration(these: Registrations, text: str, now: datetime) -> Shown:
    """Return the registration with this id or verification token.

    Raises:
        OperatorError: there is none.
    """
    number = parse_id(text) if len(text) < 32 else None
    by = operator()
    found = these.show(text, by, now) if number is None else these.show_by_id(number, by, now)
    if found is None:
        raise OperatorError(f"registration {text!r}: not found (see 'ntppool-monitor registrations list')")
    return found


def refuse(shown: Shown, problem: Problem) -> OperatorError:
    """Return the error that tells the operator why nothing was changed."""
    options = " or ".join(f"--outcome {one}" for one in problem.choose)
    return OperatorError(f"registration {shown.id}: {problem.sentence}{f' Give {options}.' if options else ''}")


REGISTRATION_COLUMNS: Final = ("id", "status", "created", "hostname", "IPv4", "IPv6", "account id", "name", "client")
REGISTRATION_LAYOUT: Final = Layout(lesser=("client", "account id", "hostname"), names=("name",))


def registration_rows(found: list[Shown]) -> list[tuple[Any, ...]]:
    """Return registrations as rows of a table."""
    return [
        (s.id, s.status, _naive(s.created_on), s.hostname, s.ip4, s.ip6, s.account_id, s.name, s.client) for s in found
    ]


def registration_fields(shown: Shown, confirm_path: str) -> list[tuple[str, Any]]:
    """Return all that is known of a registration."""
    return [
        ("id", shown.id),
        ("status", shown.status),
        ("IPv4", shown.ip4),
        ("IPv6", shown.ip6),
        ("hostname", shown.hostname),
        ("client", shown.client),
        ("account id", shown.account_id),
        ("name", shown.name),
        ("renews", shown.renews),
        ("created", _naive(shown.created_on)),
        ("last seen", _naive(shown.last_seen)),
        ("expires", _naive(shown.expires_on)),
        ("decided by", shown.decided_by),
        ("reason", shown.reason),
        ("page", confirm_path + shown.verification_token),
        *((f"{one.ip} belongs to", one.name) for one in shown.warnings),
        *((("outcomes", ", ".join(shown.choose)),) if shown.choose else ()),
    ]


SOURCE_COLUMNS: Final = ("network", "begun", "refused", "last refusal", "last seen")


def source_rows(connection: Connection) -> list[tuple[Any, ...]]:
    """Return the networks that registrations came from, the busiest first."""
    s = registration_sources.c
    query = sa.select(s.network, s.begun, s.refused, s.refusal, s.seen_on)
    return [tuple(row) for row in connection.execute(query.order_by(s.refused.desc(), s.begun.desc(), s.network))]


KEY_COLUMNS: Final = ("id", "key", "for", "account", "monitors", "created", "last seen", "ends", "reason")
KEY_LAYOUT: Final = Layout(lesser=("created", "reason", "account"))


def key_rows(keys: list[ListedKey]) -> list[tuple[Any, ...]]:
    """Return keys as rows of a table, by their first characters only."""
    return [
        (
            *(key.id, f"{key.lookup}...", key.audience, key.account, ", ".join(map(short_name, key.monitors))),
            *(key.created_on, key.last_seen, key.ends_on, key.reason),
        )
        for key in keys
    ]


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)
