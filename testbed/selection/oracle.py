"""Define the selector's terms a second time, in a simple form, as the reference for the promises.

This module uses the selector's values, but none of its code.
"""

import functools
import ipaddress
import math
from collections.abc import Iterable, Mapping

from selector.rules.model import GlobalStatus, Monitor, PairStatus, Skipped
from selector.rules.world import Review
from testbed.selection.worlds import Scene

Statuses = Mapping[int, PairStatus]

CANDIDATE, TESTING, ACTIVE, PAUSED = PairStatus
LEAVING = (GlobalStatus.PAUSED, GlobalStatus.DELETED)
RANK = {PAUSED: 0, CANDIDATE: 1, TESTING: 2, ACTIVE: 3}


def before(scene: Scene) -> dict[int, PairStatus]:
    """Return every pair's status at the start of the review, including skipped ones."""
    return {row.id: row.pair_status for row in scene.monitors if row.pair_status is not None}


def after(scene: Scene, review: Review) -> dict[int, PairStatus]:
    """Return every pair's status after the changes."""
    return before(scene) | {change.monitor_id: change.to_status for change in review.changes}


def count(statuses: Statuses, status: PairStatus) -> int:
    return sum(one is status for one in statuses.values())


# ---- merit ---------------------------------------------------------------------------------------------------------


def healthy(monitor: Monitor) -> bool:
    return bool(not monitor.gone and monitor.count and monitor.avg_step is not None and monitor.avg_step >= 0)


def unhealthy(monitor: Monitor) -> bool:
    return bool(not monitor.gone and monitor.count and monitor.avg_step is not None and monitor.avg_step < 0)


def out_on_its_own(monitor: Monitor) -> bool:
    """Return whether it must leave regardless of the constraints."""
    return monitor.global_status == "pending" or unhealthy(monitor)


def priority(monitor: Monitor) -> float:
    """Return the priority; lower is better; infinite without an rtt."""
    if monitor.avg_step is None or monitor.avg_rtt_ms is None:
        return math.inf
    return math.floor(monitor.avg_rtt_ms * (3 - 2 * monitor.avg_step) + 0.5)


def clearly_better(winner: Monitor, loser: Monitor) -> bool:
    if not healthy(loser):
        return healthy(winner)
    gain = priority(loser) - priority(winner)
    return healthy(winner) and (gain == math.inf or (gain >= 5 and gain / priority(loser) >= 0.05 - 1e-12))


def standing(monitor: Monitor) -> int:
    """Return 0 for a stable monitor, 1 without labels that matter, 2 for one with a trouble."""
    if any(label not in ("stable-1d", "stable-30d", "clock-good") for label in monitor.labels):
        return 2
    return 0 if "stable-30d" in monitor.labels else 1


def rank(monitor: Monitor) -> tuple[float, ...]:
    """Return the sort key; best first."""
    order = 0 if healthy(monitor) else 2 if unhealthy(monitor) else 1
    step = math.inf if monitor.avg_step is None else -monitor.avg_step
    rtt = math.inf if monitor.avg_rtt_ms is None else monitor.avg_rtt_ms
    return order, priority(monitor), step, rtt, monitor.id


# ---- constraints ---------------------------------------------------------------------------------------------------


@functools.cache
def network(text: str, bits4: int, bits6: int) -> object:
    address = ipaddress.ip_address(text)
    return ipaddress.ip_network((text, bits4 if address.version == 4 else bits6), strict=False)


def same_network(one: str, other: str, bits4: int, bits6: int) -> bool:
    return network(one, bits4, bits6) == network(other, bits4, bits6)


def too_close(scene: Scene, monitor: Monitor) -> str | None:
    """Return the unchangeable violation, whether or not a check is due."""
    if monitor.address and same_network(monitor.address.text, scene.server.address.text, 24, 48):
        return "network_same_subnet"
    if monitor.account_id is not None and monitor.account_id == scene.server.account_id:
        return "account"
    return None


def is_due(scene: Scene, monitor: Monitor) -> bool:
    """Return whether a check of a paused pair is due."""
    last = monitor.last_constraint_check
    return last is None or (scene.now - last).total_seconds() >= 8 * 3600


def violations(monitor: Monitor, status: PairStatus, others: Iterable[tuple[Monitor, PairStatus]]) -> set[str]:
    """Return the violations of the monitor in that place, given the others that hold one."""
    found = set()
    rest = [(other, place) for other, place in others if other.id != monitor.id and place in (ACTIVE, TESTING)]
    for other, _ in rest:
        if monitor.address and other.address and same_network(monitor.address.text, other.address.text, 20, 44):
            found.add("network_diversity")
    if monitor.account_id is not None:
        places = [place for other, place in rest if other.account_id == monitor.account_id] + [status]
        most = monitor.limit if status is ACTIVE else monitor.limit + 1
        if places.count(status) > most or len(places) > monitor.limit + 1:
            found.add("limit")
    return found


def placed(scene: Scene, statuses: Statuses) -> list[tuple[Monitor, PairStatus]]:
    """Return the judged monitors that hold a place."""
    return [(one, statuses[one.id]) for one in scene.judged if statuses.get(one.id) in (ACTIVE, TESTING)]


def entangled(one: Monitor, other: Monitor) -> bool:
    """Return whether one of them may exclude the other."""
    near = one.address and other.address and same_network(one.address.text, other.address.text, 20, 44)
    return bool(near) or (one.account_id is not None and one.account_id == other.account_id)


def exchanges(scene: Scene, statuses: Statuses) -> list[tuple[Monitor, Monitor]]:
    """Return the monitors that could be active in place of the one that excludes them, and would be clearly better."""
    places, found = placed(scene, statuses), []
    active = [one for one in scene.judged if statuses.get(one.id) is ACTIVE]
    for winner in scene.judged:
        if statuses.get(winner.id) not in (CANDIDATE, TESTING) or winner.global_status != "active":
            continue
        if (
            not healthy(winner)
            or winner.count < 24
            or too_close(scene, winner)
            or not violations(winner, TESTING, places)
        ):
            continue
        for loser in active:
            if not entangled(winner, loser) or not (out_on_its_own(loser) or clearly_better(winner, loser)):
                continue
            if not violations(winner, ACTIVE, [place for place in places if place[0].id != loser.id]):
                found.append((winner, loser))
    return found


# ---- the review ----------------------------------------------------------------------------------------------------


def leaves_at_once(scene: Scene, monitor: Monitor) -> bool:
    return monitor.global_status in LEAVING or too_close(scene, monitor) is not None


def held(scene: Scene, status: PairStatus) -> int:
    """Count the places of skipped monitors."""
    return sum(isinstance(row, Skipped) and row.pair_status is status for row in scene.monitors)


def remaining(scene: Scene, status: PairStatus) -> int:
    """Count the places still taken after the immediate removals."""
    stay = [one for one in scene.judged if one.pair_status is status and not leaves_at_once(scene, one)]
    return len(stay) + held(scene, status)


def emergency(scene: Scene) -> bool:
    return remaining(scene, ACTIVE) == 0


def limit(scene: Scene) -> int:
    """Return the maximum number of changes of a kind in this review."""
    if emergency(scene):
        return 4
    blocked = [one for one in scene.judged if one.global_status in LEAVING and one.pair_status in (ACTIVE, TESTING)]
    return 3 if len(blocked) > 1 else 2


def testing_target(statuses: Statuses) -> int:
    return 5 + max(0, 7 - count(statuses, ACTIVE))
