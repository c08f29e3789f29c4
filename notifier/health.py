"""Select the health labels that cause alerts. The selector raises and clears labels every hour.

Three labels cause none. ``not-probing`` repeats the agent's status, which arrives sooner. Each absence behind
``offline-often`` has already raised an alert. ``far-from-all`` usually describes a monitor's location and is permanent,
so its alert would hide later problems.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from notifier.model import moment
from runtime.db.monitor_health import HeldLabel, read_labels
from schema.health import HealthLabel
from schema.tables import health_progress

CLOCK: Final = frozenset({HealthLabel.CLOCK_OFF})
WORK: Final = frozenset({HealthLabel.LOSES_PACKETS, HealthLabel.V4_FLAKY, HealthLabel.V6_FLAKY})

CURRENT_FOR: Final = timedelta(hours=3)
"""Age of the last counted hour from which labels are old: two counts are missing, since the usual age is 75 minutes."""

_PROTOCOLS: Final[Mapping[str, str]] = {"v4": "IPv4", "v6": "IPv6"}


@dataclass(frozen=True, slots=True)
class Labelled:
    """What labels of a monitor say."""

    since: datetime
    """When the first of them was raised."""
    reason: str


@dataclass(frozen=True, slots=True)
class Health:
    """The labels of all monitors."""

    labels: Mapping[int, tuple[HeldLabel, ...]]
    """By the monitor's id."""
    counted_until: datetime | None
    """End of the last hour that was counted; None before the first one."""

    def is_current(self, now: datetime) -> bool:
        """Return whether the labels are those of now. Old ones tell neither that something began nor that it ended."""
        return self.counted_until is not None and abs(now - self.counted_until) < CURRENT_FOR


def read_health(connection: Connection) -> Health:
    """Read the labels of all monitors, and when they were judged last."""
    return Health(read_labels(connection), moment(connection.scalar(sa.select(health_progress.c.counted_until))))


def labelled(protocols: Iterable[tuple[str, Iterable[HeldLabel]]], which: frozenset[HealthLabel]) -> Labelled | None:
    """Return what labels of some kinds say about the protocols of an agent; None if it has none of them."""
    found = [
        (one.since.replace(tzinfo=None), f"{_PROTOCOLS.get(ipv, ipv)}: {one.reason}")
        for ipv, labels in protocols
        for one in labels
        if one.label in which
    ]
    return Labelled(min(since for since, _ in found), "; ".join(reason for _, reason in found)) if found else None
