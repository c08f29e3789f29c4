"""Count the next hour of the log and judge all monitors, in one transaction.

Each hour is counted once, ten minutes after its end. Results that arrive later do not count: for the pool, their
monitor was not there. With several selectors, one claims the count, and the others skip it.
"""

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy.engine import Connection, Engine

from runtime.db.engine import reading, transaction
from schema.health import HealthLabel
from selector.health import store
from selector.health.facts import (
    DAY,
    HOUR,
    MONTH,
    WEEK,
    Attendance,
    MonitorFacts,
    attendance,
    counted_hours,
    outages,
)
from selector.health.hours import HourCount
from selector.health.labels import Finding, judge
from selector.health.store import JudgedMonitor, LabelRow
from selector.monitors import name_of

SETTLE: Final = timedelta(minutes=10)
"""Time from the end of an hour to its count: agents send results in batches, and repeat them after a lost ack."""

CATCH_UP: Final = timedelta(hours=24)
"""Maximum age of hours that are counted after a pause; older ones count for nobody."""


class LabelChange(NamedTuple):
    """A label that was raised, with its reason, or cleared (None)."""

    monitor: str
    """Name and protocol."""
    label: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Counted:
    """The outcome of a count."""

    until: datetime
    """End of the counted hour."""
    more: bool
    """Another hour is due, after which all monitors are judged."""
    changes: tuple[LabelChange, ...] = ()


def last_hour(now: datetime) -> datetime:
    """Return the last hour that is over, and whose results have arrived. All times are naive UTC."""
    return _start_of_hour(now - SETTLE) - HOUR


def next_hour(counted_until: datetime | None, last: datetime) -> datetime | None:
    """Return the next hour to count, up to ``last``; None if that has been counted."""
    first = last + HOUR - CATCH_UP
    if counted_until is None:
        return first
    if counted_until > last + DAY:
        return last  # a clock that was ahead has counted
    return max(counted_until, first) if counted_until <= last else None


def _start_of_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def count_next_hour(engine: Engine, now: datetime) -> Counted | None:
    """Count the next hour that is over, and judge all monitors if it is the last one.

    Args:
        now: naive UTC.

    Returns:
        None if no hour is due, or another selector counts.

    Raises:
        DatabaseUnavailable: see :func:`runtime.db.engine.transaction`. The call may be repeated.
    """
    last = last_hour(now)
    with reading(engine) as connection:
        progress = store.read_progress(connection)
    if progress is None:
        # In its own transaction: an uncommitted row would block others, which cannot skip it.
        transaction(engine, store.begin_progress)
    elif next_hour(progress.counted_until, last) is None:
        return None
    return transaction(engine, partial(_count, last=last))


def _count(connection: Connection, last: datetime) -> Counted | None:
    claimed = store.claim(connection)
    hour = None if claimed is None else next_hour(claimed.counted_until, last)
    if hour is None:
        return None
    first = store.first_result(connection, hour)
    # Hours without any result are skipped: nobody delivered any.
    hour = last if first is None else min(max(hour, _start_of_hour(first)), last)
    count = HourCount(store.read_all_ids(connection))
    for pairs in store.read_pairs(connection, hour):
        count.add(pairs)
    store.write_hours(connection, hour, count.result())
    store.write_progress(connection, hour + HOUR)
    if hour < last:
        return Counted(hour + HOUR, more=True)
    return Counted(hour + HOUR, more=False, changes=tuple(_judge_all(connection, hour + HOUR)))


def _judge_all(connection: Connection, end: datetime) -> list[LabelChange]:
    """Write the labels of all monitors as of ``end``; return the changes."""
    monitors = store.read_judged(connection)
    held = store.read_held(connection)
    names = {one.id: f"{name_of(one.name, one.id)}/{one.ipv}" for one in monitors}
    rows, changes = [], []
    for facts in read_facts(connection, monitors, end):
        theirs = [label for label in HealthLabel if (facts.monitor_id, label.value) in held]
        for label, finding in judge(facts, theirs).items():
            row = _row(facts.monitor_id, label, finding, held.get((facts.monitor_id, label.value), end))
            rows.append(row)
            if label not in theirs:
                changes.append(LabelChange(names[row.monitor_id], row.label, row.reason))
    cleared = held.keys() - {(row.monitor_id, row.label) for row in rows}
    store.write_labels(connection, rows, cleared)
    changes += [LabelChange(names.get(who, f"monitor {who}"), label, None) for who, label in sorted(cleared)]
    return changes


def _row(monitor_id: int, label: HealthLabel, finding: Finding, since: datetime) -> LabelRow:
    return LabelRow(monitor_id, label.value, since, finding.reason, json.dumps(finding.figures))


def read_facts(connection: Connection, monitors: list[JudgedMonitor], end: datetime) -> list[MonitorFacts]:
    """Read the facts about these monitors at ``end``, the end of an hour."""
    per_hour = store.read_monitors_per_hour(connection, end - MONTH, end)
    without, counted = outages(per_hour), counted_hours(per_hour)
    first = store.read_first_hours(connection, end)
    last_day = store.read_hours(connection, end - DAY, end)
    periods = [(end - DAY * (n + 1), end - DAY * n) for n in range(WEEK)] + [(end - MONTH, end)]
    delivered = [store.read_delivered(connection, *period, without) for period in periods]
    by_protocol = {(one.name, one.ipv): one.id for one in monitors if one.name is not None}

    def attended(monitor_id: int) -> list[Attendance]:
        return [
            attendance(found.get(monitor_id, 0), counted, first.get(monitor_id), *period)
            for period, found in zip(periods, delivered, strict=True)
        ]

    def facts(one: JudgedMonitor) -> MonitorFacts:
        begun = first.get(one.id, end)
        *days, month = attended(one.id)
        sibling = None if one.name is None else by_protocol.get((one.name, "v4" if one.ipv == "v6" else "v6"))
        return MonitorFacts(
            monitor_id=one.id,
            ipv=one.ipv,
            age=end - begun,
            days=tuple(days),
            month=month,
            hours={hour: row for hour, row in last_day.get(one.id, {}).items() if hour not in without},
            latest=tuple(hour for hour in reversed(counted) if hour >= max(begun, end - DAY)),
            sibling={} if sibling is None else last_day.get(sibling, {}),
            not_probing=one.not_probing,
        )

    return [facts(one) for one in monitors]


def count_labels(engine: Engine) -> dict[str, int]:
    """Return the number of monitors that have each label now."""
    with reading(engine) as connection:
        held = Counter(label for _, label in store.read_held(connection))
    return {label.value: held[label.value] for label in HealthLabel}
