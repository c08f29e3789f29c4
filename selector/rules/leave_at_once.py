"""Rule 1: who must not measure this server for another minute leaves at once, whatever that does to the targets.

That is a monitor that is globally paused or deleted (its pair becomes a candidate), and one too close to the server:
same /24 or /48, or same account (its pair is paused, also when it was only a candidate). Closeness goes first, so that
after a review no such pair is anything but paused.
"""

from selector.rules.eligibility import out_because
from selector.rules.model import PairStatus, State
from selector.rules.world import LEAVE_AT_ONCE, Entry, Rule, World


def apply(world: World) -> World:
    """Pause what is too close to the server, take every place from the blocked."""
    for entry in world.entries:
        if _too_close(entry) and entry.status is not PairStatus.PAUSED:
            world = world.move(entry, PairStatus.PAUSED, LEAVE_AT_ONCE, f"violates {entry.violation}")
        elif entry.state is State.BLOCK and entry.status in (PairStatus.ACTIVE, PairStatus.TESTING):
            world = world.move(entry, PairStatus.CANDIDATE, LEAVE_AT_ONCE, out_because(entry))
    return world


def stays(world: World, entry: Entry) -> str | None:
    """Blocked candidates and paused pairs stay where they are."""
    if entry.state is State.BLOCK:
        return f"{out_because(entry)}: holds no place that it could leave"
    return None


def _too_close(entry: Entry) -> bool:
    return entry.violation is not None and entry.violation.unchangeable


RULE = Rule(LEAVE_AT_ONCE, "globally paused or deleted -> candidate; too close to the server -> paused", apply, stays)
