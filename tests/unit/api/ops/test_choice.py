"""Test who is chosen to measure: near and far monitors, then others from as many places as possible."""

import random

import pytest

from api.ops.choice import Candidate, near_and_far


def chosen(candidates: list[Candidate], most: int, seed: int = 1) -> list[Candidate]:
    found = near_and_far(candidates, most, random.Random(seed))
    assert len(found) == len({one.name for one in found}) == min(most, len(candidates))
    return found


KNOWN = [Candidate(f"m{rtt}", "nl", rtt / 1e3) for rtt in (40, 10, 300, 20, 200, 90, 150)]


@pytest.mark.parametrize(
    ("most", "milliseconds"),
    [(1, [10]), (2, [10, 300]), (3, [10, 90, 300]), (4, [10, 40, 150, 300]), (9, [10, 20, 40, 90, 150, 200, 300])],
)
def test_the_nearest_and_the_farthest_are_asked_and_some_between(most: int, milliseconds: list[int]) -> None:
    assert [one.name for one in chosen(KNOWN, most)] == [f"m{rtt}" for rtt in milliseconds]


def test_monitors_that_have_not_measured_it_are_added_from_other_places() -> None:
    unknown = [Candidate(f"{place}{number}", place) for place in ("nl", "us", "jp") for number in range(9)]
    for seed in range(20):
        found = chosen([*unknown, Candidate("known", "nl", 0.02)], 5, seed)
        assert found[0].name == "known"
        places = [one.place for one in found]
        assert sorted(map(places.count, ("nl", "us", "jp"))) == [1, 2, 2]


def test_chance_decides_among_equals() -> None:
    equals = [Candidate(f"nl{number}", "nl") for number in range(5)]
    assert {chosen(equals, 1, seed)[0].name for seed in range(60)} == {one.name for one in equals}
    assert chosen([], 3) == []
