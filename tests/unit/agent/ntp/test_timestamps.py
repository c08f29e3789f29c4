"""Test NTP timestamps and their arithmetic, across eras and with hostile values."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ntp.measurement import measure
from agent.ntp.timestamps import Timestamp, difference, from_unix_ns, to_seconds, utc_from_unix_ns

ERA = 1 << 64
SECOND = 1 << 32
ERA_1_BEGINS_NS = 2_085_978_496 * 10**9  # 2036-02-07 06:28:16 UTC
ANY = st.integers(0, ERA - 1).map(Timestamp)
NEAR = st.integers(-(1 << 62), 1 << 62)
NANOSECONDS = st.integers(0, 4_000_000_000 * 10**9)


def test_unix_time_is_converted_to_ntp_time() -> None:
    assert from_unix_ns(0) == 2_208_988_800 * SECOND
    assert from_unix_ns(500_000_000) == 2_208_988_800 * SECOND + SECOND // 2


def test_timestamp_wraps_to_zero_at_the_end_of_an_era() -> None:
    assert from_unix_ns(ERA_1_BEGINS_NS) == 0
    assert from_unix_ns(ERA_1_BEGINS_NS - 1) > from_unix_ns(ERA_1_BEGINS_NS)
    assert difference(from_unix_ns(ERA_1_BEGINS_NS + 10**9), from_unix_ns(ERA_1_BEGINS_NS - 10**9)) == 2 * SECOND


@given(ANY, NEAR)
def test_difference_equals_the_added_time_even_across_eras(earlier: Timestamp, added: int) -> None:
    assert difference(Timestamp((earlier + added) % ERA), earlier) == added


@given(ANY, ANY)
def test_a_difference_is_signed_and_below_68_years(a: Timestamp, b: Timestamp) -> None:
    assert -(ERA // 2) <= difference(a, b) < ERA // 2


@given(NANOSECONDS, st.integers(0, 10**9))
def test_conversion_preserves_nanoseconds(start: int, later: int) -> None:
    elapsed = difference(from_unix_ns(start + later), from_unix_ns(start))
    assert abs(to_seconds(elapsed) * 1e9 - later) < 0.5


def test_datetimes_are_utc_and_truncated_to_microseconds() -> None:
    assert utc_from_unix_ns(1_700_000_000_123_456_999) == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)


def at(seconds: float, base: int) -> Timestamp:
    return Timestamp((base + round(seconds * SECOND)) % ERA)


@given(ANY, st.floats(-1e6, 1e6), st.floats(0, 3), st.floats(0, 3), st.floats(0, 1))
def test_measured_offset_and_rtt_match_the_simulated_ones(
    base: Timestamp, offset: float, there: float, back: float, held: float
) -> None:
    """The error of an offset is half the difference between the two one-way delays, and never more."""
    t1, t2 = at(0, base), at(there + offset, base)
    t3, t4 = at(there + held + offset, base), at(there + held + back, base)
    measured = measure(t1, t2, t3, t4)
    if t2 == 0 or t3 == 0:
        assert measured is None
        return
    assert measured is not None
    assert measured.offset == pytest.approx(offset + (there - back) / 2, abs=1e-8)
    assert measured.rtt == pytest.approx(there + back, abs=1e-8)


@given(ANY, ANY, ANY, ANY)
def test_offset_and_rtt_are_bounded_for_any_timestamps(
    t1: Timestamp, t2: Timestamp, t3: Timestamp, t4: Timestamp
) -> None:
    measured = measure(t1, t2, t3, t4)
    if measured is not None:
        assert abs(measured.offset) <= 2**31
        assert 0 <= measured.rtt <= max(0.0, to_seconds(difference(t4, t1)))


@pytest.mark.parametrize("zero", [1, 2])
def test_missing_server_timestamp_yields_no_measurement(zero: int) -> None:
    stamps = [Timestamp(10 * SECOND)] * 4
    stamps[zero] = Timestamp(0)
    assert measure(*stamps) is None


# The last base is 0.15 s before an era ends: request and reply lie in different ones.
BASES = [1000 * SECOND, 0, ERA // 2, ERA - 15 * SECOND // 100]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("received", "transmitted", "consistent", "rtt"),
    [
        (0.1, 0.1001, True, 0.1999),
        (0.05, 0.25, True, 0.0),  # held for all of the time
        (0.1, 5.0, False, 0.0),  # held for longer than we waited
        (0.1, 0.3001, False, 0.0),
        (0.1, 0.0999, False, 0.2),  # sent before it was received
        (86400.0, 0.1, False, 0.2),
        (-3600.0, -3599.9, True, 0.1),  # a wrong clock contradicts nothing
        (3600.0, 3600.1, True, 0.1),
    ],
)
def test_contradictory_timestamps_are_marked_inconsistent(
    base: int, received: float, transmitted: float, consistent: bool, rtt: float
) -> None:
    measured = measure(at(0.01, base), at(received + 0.01, base), at(transmitted + 0.01, base), at(0.21, base))
    assert measured is not None
    assert measured.consistent == consistent
    assert measured.rtt == pytest.approx(rtt, abs=1e-8)
