"""The preference for healthy monitors: it orders monitors of which none is good enough to replace another.

It is a setting, off by default. Where a rule takes the best of several monitors that wait for a place, those that are
no better than each other by the margin of a swap count as equal, and the labels of their health over all servers decide
between them. So the preference never decides whether a place is filled or a monitor leaves, and labels that change
never move a monitor: no monitor that was passed over beats the preferred one, and a settled server stays settled.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from itertools import takewhile

from schema.health import HealthLabel
from selector.rules.model import Settings
from selector.rules.ranking import beats
from selector.rules.world import Entry, World

Obstacle = Callable[[World, Entry], str | None]
"""The reason why a monitor is not eligible in a world; None if it is."""


class Standing(IntEnum):
    """Health of a monitor over all servers, from its labels; lower is better."""

    STABLE = 0
    NEUTRAL = 1
    TROUBLED = 2


def standing(entry: Entry) -> Standing:
    """Return the monitor's standing: troubled with any label of a fault, else stable with ``stable-30d``."""
    labels = entry.monitor.labels
    if any(label.is_trouble for label in labels):
        return Standing.TROUBLED
    return Standing.STABLE if HealthLabel.STABLE_30D in labels else Standing.NEUTRAL


def preferred_first(world: World, ranked: Sequence[Entry]) -> Sequence[Entry]:
    """Return the monitors in the order in which a rule considers them for a place.

    Args:
        ranked: the monitors, best first. Beginning with the best, each takes those that it does not beat; of these
            equals, the order is that of their standing, and best first among those of the same standing.
    """
    if not world.settings.prefer_healthy:
        return ranked
    ordered: list[Entry] = []
    while len(ordered) < len(ranked):
        ordered += sorted(_equals(ranked[len(ordered) :], world.settings), key=standing)
    return ordered


def _equals(ranked: Sequence[Entry], settings: Settings) -> list[Entry]:
    """Return the best of these monitors, and those after it that it would not replace."""
    best = ranked[0]

    def equal(other: Entry) -> bool:
        return other is best or (best.healthy and not beats(best.priority, other.health, other.priority, settings))

    return list(takewhile(equal, ranked))


def preference_note(world: World, chosen: Entry, ranked: Sequence[Entry], obstacle: Obstacle) -> str:
    """Return the addition to a reason if the labels decided: which eligible monitor was passed over."""
    if not world.settings.prefer_healthy:
        return ""
    better = takewhile(lambda entry: entry is not chosen, ranked)
    passed = (entry for entry in better if standing(entry) > standing(chosen) and obstacle(world, entry) is None)
    other = next(passed, None)
    if other is None:
        return ""
    return f"; preferred to {other.monitor.name}, priority {other.priority}: {_words(chosen)} against {_words(other)}"


def _words(entry: Entry) -> str:
    """Describe the labels that determine the standing."""
    match standing(entry):
        case Standing.STABLE:
            return HealthLabel.STABLE_30D.value
        case Standing.TROUBLED:
            return " and ".join(label.value for label in entry.monitor.labels if label.is_trouble)
    return "no such label"
