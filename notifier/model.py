"""Define the values of the notifier: facts about servers, monitors and the pool, alerts, and their changes.

All times are naive UTC, as in the ledger.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple


def moment(value: object) -> datetime | None:
    """Return a time of the ledger; None for an invalid one, such as ``0000-00-00``, which arrives as text."""
    return value if isinstance(value, datetime) else None


class Group(StrEnum):
    """What an alert is about. A channel chooses the groups that it gets."""

    SERVER = "server"
    MONITOR = "monitor"
    POOL = "pool"
    """The database, the broker, and the work of all processes together: for operators only."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of alert, with its debounce times."""

    name: str
    group: Group
    raise_after: timedelta
    """Time for which the facts must have been bad before people are told."""
    clear_after: timedelta
    """Time for which the facts must have been good without interruption before people are told."""


class Key(NamedTuple):
    """Identifies an alert: its kind, and the server, monitor or part of the pool that it is about."""

    kind: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What is known now about one possible alert."""

    key: Key
    bad: bool | None
    """None: unknown, or withheld because its cause is the matter of another alert."""
    name: str
    """The subject for people."""
    detail: str
    """What was seen, for people."""
    account_id: int | None = None
    """Whose alert it is; None: the operators'."""
    since: datetime | None = None
    """Since when it is as it is; None: since it was first seen so."""
    link: str = ""
    score: float | None = None
    """The score of a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What people were told about one alert, and since when the facts contradict that."""

    key: Key
    raised: bool = False
    raised_on: datetime | None = None
    differs_since: datetime | None = None
    account_id: int | None = None
    name: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An alert was raised or cleared."""

    key: Key
    raised: bool
    changed_on: datetime
    since: datetime
    """Start of the trouble, as far as it is known."""
    name: str
    detail: str
    account_id: int | None = None
    link: str = ""
    score: float | None = None
    gone: bool = False
    """It was cleared because its subject is no longer watched."""
