"""Test the count of an hour: losses and offsets are judged by what other monitors see of the same servers."""

import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.health.hours import HourCount, MonitorHour, PairHour, medians_of_others
from testbed.random_inputs import examples


def pair(monitor: int, server: int = 1, probes: int = 10, lost: int = 0, **values: float | None) -> PairHour:
    """Make the results of a pair, which sees no offset and an rtt of 20 ms."""
    found = {"offset": 0.0, "rtt_us": 20_000.0} | values
    return PairHour(server, monitor, probes, lost, found["offset"], found["rtt_us"])


def count(*pairs: PairHour, monitors: range = range(1, 100)) -> dict[int, MonitorHour]:
    found = HourCount(monitors)
    found.add(pairs)
    return {hour.monitor_id: hour for hour in found.result()}


def judged(hour: MonitorHour) -> tuple[int, int]:
    return hour.judged, hour.lost


# ---- losses ----------------------------------------------------------------------------------------------------------


def test_loss_at_a_server_that_others_reach_counts() -> None:
    found = count(pair(1, lost=4), *(pair(monitor) for monitor in (2, 3, 4)))
    assert judged(found[1]) == (10, 4)
    assert judged(found[2]) == (0, 0), "of its others' 30 probes, 4 were lost: they do not reach the server"


@pytest.mark.parametrize(("lost", "expected"), [(3, (10, 10)), (4, (0, 0))])
def test_server_counts_as_reached_if_nine_of_ten_probes_of_the_others_were_answered(
    lost: int, expected: tuple[int, int]
) -> None:
    found = count(pair(1, lost=10), pair(2, lost=lost), pair(3), pair(4))
    assert judged(found[1]) == expected


def test_dead_server_is_held_against_nobody() -> None:
    found = count(*(pair(monitor, lost=10, offset=None, rtt_us=None) for monitor in range(1, 9)))
    assert {judged(hour) for hour in found.values()} == {(0, 0)}
    assert {hour.probes for hour in found.values()} == {10}, "but it was probed"


def test_loss_that_all_have_is_expected() -> None:
    found = count(*(pair(monitor, probes=100, lost=5) for monitor in range(1, 6)))
    assert found[1].expected_lost == pytest.approx(5.0)
    assert judged(found[1]) == (100, 5)


def test_monitor_is_compared_with_at_least_three_others() -> None:
    few = count(pair(1, lost=5, offset=1.0), pair(2), pair(3))
    assert (few[1].judged, few[1].clock_servers) == (0, 0)
    enough = count(pair(1, lost=5, offset=1.0), pair(2), pair(3), pair(4))
    assert (enough[1].judged, enough[1].clock_servers) == (10, 1)


# ---- clocks ----------------------------------------------------------------------------------------------------------


def test_clock_is_ahead_if_servers_seem_to_be_behind() -> None:
    found = count(*(pair(1, server, offset=-0.03) for server in (1, 2)), *others(1), *others(2))
    assert found[1].clock_offset == pytest.approx(0.03)
    assert found[1].clock_servers == 2


def others(server: int, offset: float = 0.0) -> list[PairHour]:
    return [pair(monitor, server, offset=offset) for monitor in range(2, 7)]


def test_wrong_server_makes_no_clock_wrong() -> None:
    found = count(pair(1, offset=5.0), *others(1, offset=5.0))
    assert {hour.clock_offset for hour in found.values()} == {0.0}


def test_one_wrong_clock_does_not_make_others_wrong() -> None:
    found = count(pair(1, offset=-60.0), *others(1))
    assert found[1].clock_offset == pytest.approx(60.0)
    assert {hour.clock_offset for number, hour in found.items() if number != 1} == {0.0}


def test_clock_is_compared_only_with_answers() -> None:
    found = count(pair(1), *(pair(monitor, lost=10, offset=None, rtt_us=None) for monitor in (2, 3, 4, 5)))
    assert (found[1].clock_offset, found[1].clock_servers) == (None, 0)


@examples(200)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12))
def test_medians_of_others_are_those_without_the_value(values: list[float]) -> None:
    expected = [median(values[:index] + values[index + 1 :]) for index in range(len(values))]
    assert medians_of_others(values) == pytest.approx(expected)


# ---- distance, and rows that do not count ----------------------------------------------------------------------------


def test_distance_is_the_median_of_the_ten_nearest_servers() -> None:
    rtts = [float(ms * 1_000) for ms in range(1, 31)]
    found = count(*(pair(1, server, rtt_us=rtt) for server, rtt in enumerate(rtts, start=1)))
    assert found[1].nearest_rtt == pytest.approx(0.0055)
    assert count(*(pair(1, server) for server in range(1, 10)))[1].nearest_rtt is None


def test_scorers_and_unknown_monitors_are_not_counted() -> None:
    found = count(pair(1, lost=5), *(pair(monitor) for monitor in (200, 201, 202, 203)))
    assert list(found) == [1]
    assert found[1].judged == 0, "rows of a scorer prove nothing"


ROWS = st.lists(
    st.builds(
        PairHour,
        server_id=st.integers(1, 6),
        monitor_id=st.integers(1, 8),
        probes=st.integers(5, 9),
        lost=st.integers(0, 5),
        offset=st.one_of(st.none(), st.floats(-1, 1)),
        rtt_us=st.one_of(st.none(), st.floats(0, 1e6)),
    ),
    unique_by=lambda row: (row.server_id, row.monitor_id),
    max_size=48,
)


@examples(100)
@given(ROWS, st.integers(0, 9))
def test_order_of_rows_makes_no_difference(rows: list[PairHour], seed: int) -> None:
    shuffled = rows.copy()
    random.Random(seed).shuffle(shuffled)
    assert count(*shuffled) == count(*rows)


@examples(50)
@given(ROWS)
def test_servers_may_be_added_a_few_at_a_time(rows: list[PairHour]) -> None:
    found = HourCount(range(1, 100))
    for server in range(1, 7):
        found.add([row for row in rows if row.server_id == server])
    assert {hour.monitor_id: hour for hour in found.result()} == count(*rows)
