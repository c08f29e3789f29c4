"""Decide when an alert is raised and when it is cleared: from what people were told, and the facts of now. Pure.

Raises and clears of an alert alternate. A clear needs facts that have been good for the whole debounce time. A raise
needs facts that are bad now and were bad a debounce time ago; a short recovery in between does not count, or trouble
that comes and goes would never be reported.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from notifier.model import Alert, Change, Fact, Group, Key, Kind

SERVER_LOW: Final = "server-low"
SERVER_VERY_LOW: Final = "server-very-low"
MONITOR_OFFLINE: Final = "monitor-offline"
MONITOR_CLOCK: Final = "monitor-clock"
MONITOR_UNHEALTHY: Final = "monitor-unhealthy"
MONITORS_AWAY: Final = "monitors-away"
NO_RESULTS: Final = "no-results"
DATABASE_AWAY: Final = "database-away"
NODE_AWAY: Final = "database-node-away"
BROKER_AWAY: Final = "broker-away"
CLOCK_DOUBTED: Final = "clock-doubted"


def _kind(name: str, group: Group, raise_after: int, clear_after: int) -> Kind:
    """Return a kind; times in minutes."""
    return Kind(name, group, timedelta(minutes=raise_after), timedelta(minutes=clear_after))


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        # A score moves by a twentieth per result, so one that has just crossed the limit often crosses it again.
        _kind(SERVER_LOW, Group.SERVER, 10, 30),
        _kind(SERVER_VERY_LOW, Group.SERVER, 10, 30),
        # A monitor counts as gone after 15 minutes already.
        _kind(MONITOR_OFFLINE, Group.MONITOR, 0, 10),
        # An agent repeats a failed check of its clock after a minute.
        _kind(MONITOR_CLOCK, Group.MONITOR, 15, 15),
        _kind(MONITOR_UNHEALTHY, Group.MONITOR, 30, 30),
        _kind(MONITORS_AWAY, Group.POOL, 0, 10),
        # The setting of the minutes without results is the debounce time.
        _kind(NO_RESULTS, Group.POOL, 0, 5),
        # Restarts of the database and of the broker take less.
        _kind(DATABASE_AWAY, Group.POOL, 2, 2),
        _kind(NODE_AWAY, Group.POOL, 5, 5),
        _kind(BROKER_AWAY, Group.POOL, 2, 2),
        _kind(CLOCK_DOUBTED, Group.POOL, 2, 5),
    )
}


def step(alert: Alert, bad: bool | None, now: datetime, kind: Kind) -> tuple[Alert, bool]:
    """Return the alert after the facts of ``now``, and whether it was raised or cleared.

    Args:
        bad: None changes nothing.
    """
    if bad is None:
        return alert, False
    # A clock that was set back must not make an alert wait.
    since = None if alert.differs_since is None else min(alert.differs_since, now)
    wait = kind.clear_after if alert.raised else kind.raise_after
    if bad == alert.raised:
        keeps = since is not None and not alert.raised and now - since < wait
        return replace(alert, differs_since=since if keeps else None), False
    since = now if since is None else since
    if now - since < wait:
        return replace(alert, differs_since=since), False
    return replace(alert, raised=bad, raised_on=now if bad else None, differs_since=None), True


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome of one evaluation: rows to write and to remove, and the changes that people are told."""

    kept: tuple[Alert, ...]
    removed: tuple[Key, ...]
    changes: tuple[Change, ...]


def evaluate(alerts: Mapping[Key, Alert], facts: Iterable[Fact], now: datetime) -> Evaluation:
    """Compare all facts with what people were told.

    An alert that no fact is about is no longer watched, since its server or monitor was removed or paused; if it is
    raised, it is cleared at once.

    Args:
        alerts: those that are raised, or whose facts differ.
        facts: one for each possible alert, including unknown ones.
    """
    kept: list[Alert] = []
    removed: list[Key] = []
    changes: list[Change] = []
    seen: set[Key] = set()
    for fact in facts:
        seen.add(fact.key)
        before = alerts.get(fact.key)
        old = before or Alert(key=fact.key)
        after, changed = step(old, fact.bad, now, KINDS[fact.key.kind])
        if changed:
            changes.append(_change(old, fact, after.raised, now))
        if after.raised or after.differs_since is not None:
            kept += _to_write(before, _described(after, fact))
        elif before is not None:
            removed.append(fact.key)
    for key in alerts.keys() - seen:
        removed.append(key)
        if alerts[key].raised:
            changes.append(_end(alerts[key], now))
    return Evaluation(tuple(kept), tuple(removed), tuple(sorted(changes, key=lambda change: change.key)))


def _described(alert: Alert, fact: Fact) -> Alert:
    detail = fact.detail if fact.bad else alert.detail
    return replace(alert, account_id=fact.account_id, name=fact.name, detail=detail)


def _to_write(before: Alert | None, after: Alert) -> list[Alert]:
    """Return the row unless only its description changed, which every new score does."""
    same = before is not None and replace(before, detail=after.detail) == after
    return [] if same else [after]


def _change(old: Alert, fact: Fact, raised: bool, now: datetime) -> Change:
    known = fact.since if raised else old.raised_on
    return Change(
        key=fact.key,
        raised=raised,
        changed_on=now,
        since=min(known or old.differs_since or now, now),
        name=fact.name,
        detail=fact.detail,
        account_id=fact.account_id,
        link=fact.link,
        score=fact.score,
    )


def _end(alert: Alert, now: datetime) -> Change:
    return Change(
        key=alert.key,
        raised=False,
        changed_on=now,
        since=min(alert.raised_on or now, now),
        name=alert.name,
        detail="",
        account_id=alert.account_id,
        gone=True,
    )
