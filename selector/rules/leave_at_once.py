"""Rule 1, immediate removal: a monitor that must not measure this server leaves at once, regardless of the targets.

The rule applies to a monitor that is globally paused or deleted (its pair becomes a candidate), and to one that is too
close to the server: same /24 or /48, or same account (its pair is paused, even if it was only a candidate). Closeness
is checked first, so that after a review every such pair is paused.
"""

from selector.rules.eligibility import out_because
from selector.rules.model import PairStatus, State
from selector.rules.world import LEAVE_AT_ONCE, Entry, Rule, World


def apply(world: World) -> World:
    """Pause monitors that are too close to the server, and demote blocked ones that hold a place."""
    for entry in world.entries:
        if _too_close(entry) and entry.status is not PairStatus.PAUSED:
            world = world.move(entry, PairStatus.PAUSED, LEAVE_AT_ONCE, f"violates {entry.violation}")
        elif entry.state is State.BLOCK and entry.status in (PairStatus.ACTIVE, PairStatus.TESTING):
            world = world.move(entry, PairStatus.CANDIDATE, LEAVE_AT_ONCE, out_because(entry))
    return world


def stays(world: World, entry: Entry) -> str | None:
    """Explain why blocked candidates and blocked paused pairs do not move."""
    if entry.state is State.BLOCK:
        return f"{out_because(entry)}: has no place to leave"
    return None


def _too_close(entry: Entry) -> bool:
    return entry.violation is not None and entry.violation.unchangeable


RULE = Rule(LEAVE_AT_ONCE, "globally paused or deleted -> candidate; too close to the server -> paused", apply, stays)
