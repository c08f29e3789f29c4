"""The world before the first rule: every monitor ranked, its violation found and its state determined."""

from collections.abc import Iterable
from datetime import datetime
from operator import itemgetter

from selector.rules.constraints import Placed, closeness, crowding
from selector.rules.model import (
    GlobalStatus,
    Health,
    Monitor,
    PairStatus,
    Rejected,
    Server,
    Settings,
    State,
    ViolationType,
)
from selector.rules.ranking import SortKey, health, priority, sort_key
from selector.rules.world import Entry, World

BLOCKED = frozenset({GlobalStatus.PAUSED, GlobalStatus.DELETED})


def out_on_its_own(global_status: GlobalStatus, health: Health) -> bool:
    """Whether the monitor is to leave whatever the constraints say."""
    return global_status is GlobalStatus.PENDING or health is Health.UNHEALTHY


def determine_state(
    global_status: GlobalStatus,
    pair_status: PairStatus,
    health: Health,
    violation: ViolationType | None,
    emergency: bool,
) -> State:
    """The first that applies decides: blocked, out, pending, in.

    In an emergency (no active monitor at all) `limit` and `network_diversity` are seen but push nobody out: else the
    clean-up would undo the rescue for ever.
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


def assess(server: Server, monitors: Iterable[Monitor | Rejected], now: datetime, settings: Settings) -> World:
    """The ranked and judged monitors that have a pair with the server.

    Those that leave at once (blocked, or too close to the server) hold no place any more in what is judged here: they
    neither crowd anybody out nor keep an emergency from being one.
    """
    held: list[Rejected] = []
    ranked: list[_Ranked] = []
    for monitor in monitors:
        if isinstance(monitor, Rejected):
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
    taken = [pair for _, pair, _ in remaining] + [rejected.pair_status for rejected in held]
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
    """Those that hold a place, from the most to the least worth keeping when they may not all stay.

    Given best first. Who is out anyway (unhealthy or pending) comes last, so that it never pushes out one that serves
    the server well; then active comes before testing, and the better before the worse.
    """
    placed = [item for item in ranked if item[1] in PLACES]
    placed.sort(key=lambda item: (out_on_its_own(item[0].global_status, item[2]), item[1] is PairStatus.TESTING))
    return [(monitor, pair) for monitor, pair, _ in placed]


def check_is_due(monitor: Monitor, now: datetime, settings: Settings) -> bool:
    """Whether this review looks at the pair's constraints: at a paused pair's only every 8 h."""
    if monitor.pair_status is not PairStatus.PAUSED or monitor.last_constraint_check is None:
        return True
    return now - monitor.last_constraint_check >= settings.recheck_constraint


def _rank(monitor: Monitor, pair: PairStatus) -> _Ranked:
    how, points = health(monitor), priority(monitor)
    return sort_key(monitor, how, points), monitor, pair, how, points


def _close(server: Server, monitor: Monitor, now: datetime, settings: Settings) -> ViolationType | None:
    """The unchangeable violation; for a paused pair that is not due, what was found when it was last looked at."""
    if check_is_due(monitor, now, settings):
        return closeness(server, monitor)
    stored = monitor.violation_type
    return ViolationType(stored) if stored in _UNCHANGEABLE else None
