"""Test the limits for operators' programs."""

import pytest

from api.ops.limits import CHECKS_AT_ONCE, WAITING_AT_ONCE, Full, PerMinute, Places
from runtime.http.edge import AT_ONCE


def test_places_are_given_back_whatever_happens() -> None:
    places = Places(2)
    with places.one():
        with pytest.raises(ZeroDivisionError), places.one():
            raise ZeroDivisionError
        with places.one(), pytest.raises(Full), places.one():
            pytest.fail("there were two places")
        assert places.taken == 1
    assert places.taken == 0


def test_waiting_for_agents_leaves_places_for_hosts() -> None:
    assert CHECKS_AT_ONCE < WAITING_AT_ONCE <= AT_ONCE // 2


def test_each_operator_may_do_so_many_in_any_minute() -> None:
    now = [0.0]
    limit = PerMinute(3, lambda: now[0])
    for at in (0.0, 10.0, 20.0):
        now[0] = at
        assert limit.begin("anna") == 0
    now[0] = 30.0
    assert limit.begin("anna") == 30.0
    assert limit.begin("bert") == 0, "that is another one"
    now[0] = 60.0
    assert limit.begin("anna") == 0
    assert limit.begin("anna") == 10.0
    now[0] = 999.0
    assert limit.begin("anna") == 0 and len(limit._begun) == 1, "who is long gone is forgotten"
