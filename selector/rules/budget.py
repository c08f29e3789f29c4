"""How many candidates may still enter testing in this review: the three parts of rule 5 share it."""

from selector.model import PairStatus
from selector.world import World, is_promotion


def no_promotions_to_testing(world: World) -> str | None:
    """Why no further candidate may enter testing in this review."""
    if world.promotions_left <= 0:
        return f"limit of {world.limit} promotions reached"
    entered = sum(is_promotion(change) and change.to_status is PairStatus.TESTING for change in world.changes)
    most = world.settings.testing_promotions
    return f"{most} candidates have entered testing in this review" if entered >= most else None
