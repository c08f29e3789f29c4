"""What several rules share: how many candidates may still enter testing in this review, and the words of a swap."""

from selector.rules.model import PairStatus
from selector.rules.world import Entry, World, is_promotion


def no_promotions_to_testing(world: World) -> str | None:
    """Why no further candidate may enter testing in this review."""
    if world.promotions_left <= 0:
        return f"limit of {world.limit} promotions reached"
    entered = sum(is_promotion(change) and change.to_status is PairStatus.TESTING for change in world.changes)
    most = world.settings.testing_promotions
    return f"{most} candidates have entered testing in this review" if entered >= most else None


def versus(winner: Entry, loser: Entry) -> str:
    """The comparison that decided a swap."""
    if not loser.healthy:
        return f"healthy against {loser.health}"
    return f"priority {winner.priority} against {loser.priority}"
