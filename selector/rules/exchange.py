"""Rule 3, exchange across a constraint: a clearly better monitor takes the place of the very one that keeps it out.

Two monitors of one /20 (/44), or too many of one account, may not all hold places, so whoever came first would keep the
better one out for ever. A candidate cannot get in beside it to be tested, so no swap of rules 3 and 5 finds it. Here
the one in place leaves and the better one comes, in one review, so that a server is never without an active monitor:

- who has the results that an active monitor needs takes the active place itself, also from testing, where it would
  otherwise have to leave because of the violation;
- who has yet to gather them enters testing instead, and the place stays free for the best of testing meanwhile. That
  needs enough other active monitors, and is tried once a week: one that does not get ready would be let in for ever.

Comes before rule 2, which removes from testing who is in violation.
"""

from collections.abc import Iterator

from selector.rules.assess import out_on_its_own
from selector.rules.constraints import entangled
from selector.rules.eligibility import no_promotions_to_testing, out_because, versus, would_violate
from selector.rules.model import GlobalStatus, PairStatus, State
from selector.rules.ranking import beats
from selector.rules.reserved_places import may_try_again
from selector.rules.world import Entry, Rule, World

NAME = "rule 3: exchange across a constraint"


def apply(world: World) -> World:
    """The worst active monitor first, each for the best that may take its place."""
    if world.emergency:
        return world
    waiting = [entry for entry in (*world.testing, *world.candidates) if _obstacle(world, entry) is None]
    for loser in reversed(world.active) if waiting else ():
        if no_room(world):
            break
        if not world.moved(loser):
            world = next(_exchanges(world, loser, waiting), world)
    return world


def no_room(world: World) -> str | None:
    """Why no exchange is possible, whoever it be."""
    if world.active_count > world.settings.target_active:
        return "too many are active, who leave first"
    if world.promotions_left <= 0:
        return f"limit of {world.limit} promotions reached"
    if world.active_removals_left <= 0:
        return f"limit of {world.limit} active removals reached"
    return None


def _obstacle(world: World, entry: Entry) -> str | None:
    """Why this monitor waits for no exchange, whoever might give way to it."""
    if world.moved(entry):
        return "already moved in this review"
    if not entry.globally_active:
        return f"globally {entry.monitor.global_status}: only a globally active monitor becomes active"
    if not entry.healthy or entry.state is State.BLOCK:
        return "is not healthy"
    if entry.violation is not None and entry.violation.unchangeable:
        return out_because(entry)
    if entry.monitor.count < world.settings.results_for_testing:
        return f"{entry.monitor.count} of {world.settings.results_for_testing} results"
    if would_violate(world, entry, PairStatus.TESTING) is None:
        return "no constraint keeps it out"
    return None


def _exchanges(world: World, loser: Entry, waiting: list[Entry]) -> Iterator[World]:
    """The worlds after each possible exchange for ``loser``, the best first."""
    for winner in waiting:
        if winner is loser or world.moved(winner) or not _displaces(world, winner, loser):
            continue
        after = (
            _into_active(world, winner, loser) if ready(world, winner, loser) else _into_testing(world, winner, loser)
        )
        if after is not None:
            yield after


def _displaces(world: World, winner: Entry, loser: Entry) -> bool:
    """Whether the two stand in each other's way, and the first is clearly better or the second is to leave anyway."""
    return entangled(winner.monitor, loser.monitor) and (
        out_on_its_own(loser.monitor.global_status, loser.health)
        or beats(winner.priority, loser.health, loser.priority, world.settings)
    )


def ready(world: World, winner: Entry, loser: Entry) -> bool:
    """Whether it has the results of an active monitor; fewer are enough where the last one has to leave."""
    settings = world.settings
    last = world.active_count == 1 and out_on_its_own(loser.monitor.global_status, loser.health)
    return winner.monitor.count >= (settings.results_for_active_in_emergency if last else settings.results_for_active)


def _into_active(world: World, winner: Entry, loser: Entry) -> World | None:
    """The two change places, if the winner violates nothing then; the loser tests if it violates nothing there."""
    if would_violate(world.move(loser, PairStatus.CANDIDATE, NAME, ""), winner, PairStatus.ACTIVE) is not None:
        return None
    came = world.move(
        winner, PairStatus.ACTIVE, NAME, f"takes the place of {loser.monitor.name}, {_facts(winner, loser)}"
    )
    to = PairStatus.CANDIDATE if would_violate(came, loser, PairStatus.TESTING) else PairStatus.TESTING
    return came.move(loser, to, NAME, f"gives way to {winner.monitor.name}, {_facts(winner, loser)}")


def _into_testing(world: World, winner: Entry, loser: Entry) -> World | None:
    """The loser makes way for the winner to be tested, if enough others are active."""
    floor = max(1, world.settings.target_active - world.settings.floor_below_target)
    if winner.status is not PairStatus.CANDIDATE or world.active_count <= floor or not may_try_again(world, winner):
        return None
    facts = _facts(winner, loser)
    without = world.move(
        loser, PairStatus.CANDIDATE, NAME, f"makes way for {winner.monitor.name} to be tested, {facts}"
    )
    if without.testing_count >= without.testing_target or no_promotions_to_testing(without):
        return None
    if any(would_violate(without, winner, status) for status in (PairStatus.ACTIVE, PairStatus.TESTING)):
        return None
    return without.move(winner, PairStatus.TESTING, NAME, f"is tested in the stead of {loser.monitor.name}, {facts}")


def _facts(winner: Entry, loser: Entry) -> str:
    """What the two share, and the comparison that decided."""
    shared = "account" if loser.monitor.account_id == winner.monitor.account_id is not None else "network"
    if loser.monitor.global_status is GlobalStatus.PENDING:
        return f"same {shared}, globally {winner.monitor.global_status} against pending"
    return f"same {shared}, {versus(winner, loser)}"


def stays(world: World, entry: Entry) -> str | None:
    """Those that a constraint keeps out although they are clearly better than an active monitor it names."""
    if world.emergency or entry.status not in (PairStatus.CANDIDATE, PairStatus.TESTING) or _obstacle(world, entry):
        return None
    losers = [other for other in reversed(world.active) if not world.moved(other) and _displaces(world, entry, other)]
    if not losers:
        return None
    return f"better than {losers[0].monitor.name}, but: {no_room(world) or _stands_against(world, entry, losers[0])}"


def _stands_against(world: World, winner: Entry, loser: Entry) -> str:
    without = world.move(loser, PairStatus.CANDIDATE, NAME, "")
    if violation := would_violate(without, winner, PairStatus.ACTIVE):
        return f"would violate {violation} beside others, too"
    return f"{winner.monitor.count} of {world.settings.results_for_active} results, and cannot be tested beside it"


RULE = Rule(NAME, "a clearly better monitor takes the active place that keeps it out", apply, stays)
