"""Choose the monitors that measure an address on request: near and far ones, from different places. Pure."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A monitor that can measure the address."""

    name: str
    place: str
    usual_rtt: float | None = None
    """Shortest round-trip time to the address within a day, in seconds; ``None`` if it has not measured it."""


def near_and_far(candidates: Iterable[Candidate], most: int, chance: random.Random) -> list[Candidate]:
    """Return up to ``most`` candidates, nearest first.

    Those that know their distance are taken at equal steps from the nearest to the farthest. If there are too few of
    them, others are added, from as many places as possible.
    """
    everyone = list(candidates)
    chance.shuffle(everyone)  # whom no rule prefers is asked as often as the others
    known = sorted((one for one in everyone if one.usual_rtt is not None), key=_distance)
    chosen = _at_equal_steps(known, most)
    unknown = [one for one in everyone if one.usual_rtt is None]
    places = [one.place for one in chosen]
    while unknown and len(chosen) < most:
        rarest = min(unknown, key=lambda one: places.count(one.place))
        unknown.remove(rarest)
        places.append(rarest.place)
        chosen.append(rarest)
    return chosen


def _distance(candidate: Candidate) -> float:
    return candidate.usual_rtt or 0.0


def _at_equal_steps(ordered: Sequence[Candidate], most: int) -> list[Candidate]:
    """Return ``most`` of these, with the first and the last."""
    if len(ordered) <= most:
        return list(ordered)
    if most == 1:
        return [ordered[0]]
    return [ordered[round(step * (len(ordered) - 1) / (most - 1))] for step in range(most)]
