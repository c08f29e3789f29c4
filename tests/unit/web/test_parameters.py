"""Test the bounds of all parameters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.parameters import (
    DEFAULT_LIMIT,
    LONGEST_RANGE,
    MOST_POINTS,
    MOST_ROWS,
    BadParameter,
    Range,
    WantedMonitor,
    parse_limit,
    parse_monitor,
    parse_range,
    parse_since,
)

NOW = 1_796_040_000


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        *((text, DEFAULT_LIMIT) for text in (None, "", "x", "1e3", "0x10", "12.5", "9" * 5000, "٣")),
        *(("-1", 1), ("0", 1), ("1", 1), ("+7", 7), (" 7", 7), ("10000", MOST_ROWS), ("10001", MOST_ROWS)),
        ("9" * 18, MOST_ROWS),
    ],
)
def test_limit(text: str | None, limit: int) -> None:
    assert parse_limit(text) == limit


@given(st.text(max_size=30))
def test_any_limit_is_within_the_bounds(text: str) -> None:
    assert 1 <= parse_limit(text) <= MOST_ROWS


def test_since() -> None:
    assert [parse_since(text) for text in (None, "", "0", "17", "-5")] == [None, None, 0, 17, 0]
    for text in ("x", "-3d", "1.5", "9" * 30):
        with pytest.raises(BadParameter, match="since must be seconds"):
            parse_since(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, WantedMonitor(name="recentmedian")),
        ("", WantedMonitor(name="recentmedian")),
        ("*", WantedMonitor(all=True)),
        ("12", WantedMonitor(id=12)),
        ("NLams1-x", WantedMonitor(name="nlams1-x")),
        ("**", None),
        ("a b", None),
        ("%", None),
        ("9" * 11, None),
        ("-1", WantedMonitor(name="-1")),
    ],
)
def test_monitor(text: str | None, wanted: WantedMonitor | None) -> None:
    assert parse_monitor(text, "recentmedian") == wanted


def test_range() -> None:
    assert parse_range(None, None, None, NOW) == Range(NOW - 3 * 86_400, NOW, MOST_POINTS)
    assert parse_range("-2h", "-30m", "10", NOW) == Range(NOW - 7200, NOW - 1800, 10)
    assert parse_range("100", "101", "", NOW) == Range(100, 101, MOST_POINTS)
    assert parse_range("0", str(LONGEST_RANGE), "1", NOW).end == LONGEST_RANGE


@pytest.mark.parametrize(
    ("begin", "end", "points", "words"),
    [
        ("100", "100", None, "to must be later"),
        ("-1h", "-2h", None, "to must be later"),
        ("-91d", None, None, "at most 90 days apart"),
        ("-999999999d", None, None, "at most 90 days apart"),
        ("yesterday", None, None, "from must be seconds"),
        ("-1", None, None, "from must be seconds"),
        ("-1h", "9" * 19, None, "to must be seconds"),
        ("-1w", None, None, "from must be seconds"),
        ("-1h", None, "0", "maxDataPoints must be"),
        ("-1h", None, "50001", "maxDataPoints must be"),
        ("-1h", None, "many", "maxDataPoints must be"),
    ],
)
def test_wrong_ranges(begin: str, end: str | None, points: str | None, words: str) -> None:
    with pytest.raises(BadParameter, match=words):
        parse_range(begin, end, points, NOW)
