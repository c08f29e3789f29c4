"""Read the labels of monitors' health from the ledger, for all who show or use them; the selector writes them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.engine import from_db
from schema.health import HealthLabel
from schema.tables import monitor_health

_ORDER = {label.value: place for place, label in enumerate(HealthLabel)}


@dataclass(frozen=True, slots=True)
class HeldLabel:
    """A label that a monitor has now."""

    label: HealthLabel
    since: datetime
    reason: str
    figures: dict[str, Any]
    """The numbers in the reason: times in seconds, shares from 0 to 1."""


def read_labels(connection: Connection, monitor_ids: Iterable[int] | None = None) -> dict[int, tuple[HeldLabel, ...]]:
    """Return the labels of these monitors (None: of all), in the order of :class:`HealthLabel`.

    Monitors without a label are omitted, and so are labels that this program does not know: a newer one wrote them.
    """
    health = monitor_health.c
    query = sa.select(monitor_health)
    if monitor_ids is not None:
        query = query.where(health.monitor_id.in_(sorted(monitor_ids)))
    rows = [row for row in connection.execute(query) if row.label in _ORDER]
    rows.sort(key=lambda row: (row.monitor_id, _ORDER[row.label]))
    found: dict[int, tuple[HeldLabel, ...]] = {}
    for row in rows:
        held = HeldLabel(HealthLabel(row.label), from_db(row.since), row.reason, _figures(row.figures))
        found[row.monitor_id] = (*found.get(row.monitor_id, ()), held)
    return found


def _figures(text: str) -> dict[str, Any]:
    """Return the figures; none if the text is not a JSON object, so that one row stops no list."""
    try:
        figures = json.loads(text)
    except ValueError:
        return {}
    return figures if isinstance(figures, dict) else {}
