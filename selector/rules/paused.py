"""Rule 7, paused pairs: a paused pair whose violation is resolved becomes a candidate again, at most 2 per review.

A paused pair is checked when its last check is 8 hours old; in between, the result of that check is used. The pairs
that have waited longest are freed first, and a resolved pair that is not freed yet stays due.
"""

from datetime import UTC, datetime

from selector.rules.assess import check_is_due
from selector.rules.eligibility import out_because
from selector.rules.model import PairStatus, State
from selector.rules.world import Entry, Rule, World

NAME = "rule 7: free paused pairs"

_NEVER = datetime.min.replace(tzinfo=UTC)


def apply(world: World) -> World:
    """Free the resolved pairs, longest wait first."""
    resolved = [entry for entry in world.paused if obstacle(world, entry) is None]
    resolved.sort(key=lambda entry: (entry.monitor.last_constraint_check or _NEVER, entry.id))
    for entry in resolved[: world.settings.freed_per_review]:
        world = world.move(entry, PairStatus.CANDIDATE, NAME, "no longer violates a constraint")
    return world


def obstacle(world: World, entry: Entry) -> str | None:
    """Return why this paused pair stays paused."""
    if world.moved(entry):
        return "already moved in this review"
    if entry.violation is not None:
        since = "violates" if check_is_due(entry.monitor, world.now, world.settings) else "violated when last checked:"
        return f"{since} {entry.violation}"
    if not check_is_due(entry.monitor, world.now, world.settings):
        return f"is checked again {world.settings.recheck_constraint} after its last check"
    if entry.state is State.BLOCK:
        return out_because(entry)
    return None


def stays(world: World, entry: Entry) -> str | None:
    """Explain why paused pairs stay paused."""
    if entry.status is not PairStatus.PAUSED:
        return None
    return obstacle(world, entry) or f"resolved, but only {world.settings.freed_per_review} are freed per review"


RULE = Rule(NAME, "paused, check due and no violation -> candidate", apply, stays)
