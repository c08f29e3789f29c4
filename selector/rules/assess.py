"""Build the world for the first rule: rank every monitor, find its violation and determine its state."""

from collections.abc import Iterable
from datetime import datetime
from operator import itemgetter

from selector.rules.constraints import Placed, closeness, crowding
from selector.rules.model import (
    GlobalStatus,
    Health,
    Monitor,
    PairStatus,
    Server,
    Settings,
    Skipped,
    State,
    ViolationType,
)
from selector.rules.ranking import SortKey, health, priority, sort_key
from selector.rules.world import Entry, World

BLOCKED = frozenset({GlobalStatus.PAUSED, GlobalStatus.DELETED})


def out_on_its_own(global_status: GlobalStatus, health: Health) -> bool:
    """Return whether the monitor has to leave regardless of the constraints."""
    return global_status is GlobalStatus.PENDING or health is Health.UNHEALTHY


def determine_state(
    global_status: GlobalStatus,
    pair_status: PairStatus,
    health: Health,
    violation: ViolationType | None,
    emergency: bool,
) -> State:
    """Return the first state that applies: blocked, out, pending, in.

    In an emergency (no active monitor at all) violations of `limit` and `network_diversity` are recorded but do not
    remove a monitor; otherwise every clean-up would undo the rescue.
    """
    if global_status in BLOCKED:
        return State.BLOCK
    if out_on_its_own(global_status, health):
        return State.OUT
    if violation is not None and (violation.unchangeable or not emergency):
        return State.OUT
    if pair_status is PairStatus.TESTING and global_status is GlobalStatus.TESTING:
        return State.PENDING
    return State.IN


PLACES = (PairStatus.ACTIVE, PairStatus.TESTING)

_UNCHANGEABLE = frozenset(kind for kind in ViolationType if kind.unchangeable)

_Ranked = tuple[SortKey, Monitor, PairStatus, Health, int | None]


def assess(server: Server, monitors: Iterable[Monitor | Skipped], now: datetime, settings: Settings) -> World:
    """Rank and assess the monitors that have a pair with the server.

    Monitors that are removed immediately (blocked, or too close to the server) count as if they held no place: they
    neither displace another monitor nor hide an emergency.
    """
    held: list[Skipped] = []
    ranked: list[_Ranked] = []
    for monitor in monitors:
        if isinstance(monitor, Skipped):
            held.append(monitor)
        elif monitor.pair_status is not None:
            ranked.append(_rank(monitor, monitor.pair_status))
    ranked.sort(key=itemgetter(0))
    close = {monitor.id: _close(server, monitor, now, settings) for _, monitor, *_ in ranked}
    remaining = [
        (monitor, pair, how)
        for _, monitor, pair, how, _ in ranked
        if close[monitor.id] is None and monitor.global_status not in BLOCKED
    ]
    taken = [pair for _, pair, _ in remaining] + [skipped.pair_status for skipped in held]
    emergency = PairStatus.ACTIVE not in taken
    crowded = crowding(worth_keeping(remaining))
    entries = []
    for _, monitor, pair, how, points in ranked:
        violation = close[monitor.id] or crowded.get(monitor.id)
        state = determine_state(monitor.global_status, pair, how, violation, emergency)
        entries.append(Entry(monitor.id, monitor, pair, how, points, violation, state))
    statuses = {entry.id: entry.status for entry in entries}
    return World(server, settings, now, tuple(entries), tuple(held), emergency, statuses)


def worth_keeping(ranked: Iterable[tuple[Monitor, PairStatus, Health]]) -> list[Placed]:
    """Return the monitors that hold a place, in the order in which they are kept if not all of them may stay.

    ``ranked`` is best first. Monitors that are out anyway (unhealthy or pending) come last, so that they never displace
    a suitable one; otherwise active comes before testing, and better before worse.
    """
    placed = [item for item in ranked if item[1] in PLACES]
    placed.sort(key=lambda item: (out_on_its_own(item[0].global_status, item[2]), item[1] is PairStatus.TESTING))
    return [(monitor, pair) for monitor, pair, _ in placed]


def check_is_due(monitor: Monitor, now: datetime, settings: Settings) -> bool:
    """Return whether this review checks the pair's constraints; those of a paused pair are checked only every 8 h."""
    if monitor.pair_status is not PairStatus.PAUSED or monitor.last_constraint_check is None:
        return True
    return now - monitor.last_constraint_check >= settings.recheck_constraint


def _rank(monitor: Monitor, pair: PairStatus) -> _Ranked:
    how, points = health(monitor), priority(monitor)
    return sort_key(monitor, how, points), monitor, pair, how, points


def _close(server: Server, monitor: Monitor, now: datetime, settings: Settings) -> ViolationType | None:
    """Return the unchangeable violation; for a paused pair whose check is not due, the result of its last check."""
    if check_is_due(monitor, now, settings):
        return closeness(server, monitor)
    stored = monitor.violation_type
    return ViolationType(stored) if stored in _UNCHANGEABLE else None
