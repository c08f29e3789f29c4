"""Review one server: decide which monitors change their status, and which rows to write.

Pure: no database, no clock, no log. The same values in any order give the same review.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

from selector.rules import ORDER
from selector.rules.assess import assess, check_is_due, worth_keeping
from selector.rules.constraints import crowding
from selector.rules.model import (
    PAUSE_CONSTRAINT,
    Monitor,
    PairRecord,
    PairStatus,
    Server,
    Settings,
    Skipped,
    Violation,
    ViolationType,
)
from selector.rules.world import Entry, Review, Step, World


def review(server: Server, monitors: Iterable[Monitor | Skipped], now: datetime, settings: Settings) -> Review:
    """Decide about one server. ``now`` (aware, UTC) dates violations and determines which paused pairs are due."""
    world = assess(server, monitors, now, settings)
    steps: list[Step] = []
    for rule in ORDER:
        after = rule.apply(world)
        steps.append(Step(rule, after, after.changes[len(world.changes) :]))
        world = after
    return Review(
        changes=world.changes,
        violations=_found(world),
        records=tuple(_records(world)),
        skipped=world.held,
        steps=tuple(steps),
        world=world,
    )


def _found(world: World) -> dict[int, Violation]:
    found = ((entry.id, _dated(entry, entry.violation, world.now)) for entry in world.entries)
    return {monitor_id: violation for monitor_id, violation in found if violation is not None}


def _records(world: World) -> Iterable[PairRecord]:
    """Yield the rows that differ from the ledger.

    The stored violations are those that remain after the changes: a change of status that resolves a violation also
    clears it. The time of the check is written only where it matters: with every other change of the row, and for a
    paused pair that was checked and stays paused, since it determines the next check.
    """
    crowded = crowding(
        worth_keeping((entry.monitor, world.statuses[entry.id], entry.health) for entry in world.entries)
    )
    for entry in world.entries:
        record = _record(world, entry, crowded)
        if record is not None:
            yield record


def _record(world: World, entry: Entry, crowded: Mapping[int, ViolationType]) -> PairRecord | None:
    monitor, status = entry.monitor, world.statuses[entry.id]
    if status is PairStatus.PAUSED:
        return _paused_record(world, entry)
    violation = _dated(entry, crowded.get(entry.id), world.now)
    if status is entry.status and _stored(violation) == (monitor.violation_type, monitor.violation_since):
        return None
    return PairRecord(entry.id, status, *_stored(violation), world.now, None)


def _paused_record(world: World, entry: Entry) -> PairRecord | None:
    monitor = entry.monitor
    if not check_is_due(monitor, world.now, world.settings):
        return None
    violation = _dated(entry, entry.violation, world.now)
    if violation is not None:
        return PairRecord(entry.id, PairStatus.PAUSED, *_stored(violation), world.now, PAUSE_CONSTRAINT)
    if monitor.violation_type is None:
        return None
    last_check = monitor.last_constraint_check  # not updated: the pair waits to be freed and has to stay due
    return PairRecord(entry.id, PairStatus.PAUSED, None, None, last_check, monitor.pause_reason)


def _dated(entry: Entry, kind: ViolationType | None, now: datetime) -> Violation | None:
    """Return the violation and its start: the stored one, or now if the ledger has another violation or none."""
    if kind is None:
        return None
    stored = entry.monitor
    return Violation(kind, now if stored.violation_type != kind else stored.violation_since or now)


def _stored(violation: Violation | None) -> tuple[str | None, datetime | None]:
    return (None, None) if violation is None else (violation.type.value, violation.since)
