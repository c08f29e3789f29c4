"""Test durations in Go's form, as in the pool's settings and operators' input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.durations import duration_text, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("9m", 540.0),
        ("45m", 2700.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("2h0m0s", 7200.0),
        ("90s", 90.0),
        ("100ms", 0.1),
        ("1s500ms", 1.5),
        ("250us", 250e-6),
        ("250µs", 250e-6),
        ("7ns", 7e-9),
        (".5s", 0.5),
        ("0", 0.0),
        ("0s", 0.0),
    ],
)
def test_go_durations_are_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    ["", "9", "m", "-9m", "+9m", "9 m", "9m ", " 9m", "9m\n", "9M", "9min", "1d", "1h 5m", "1e3s", "٩m", "h1", "."],
)
def test_invalid_durations_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 90s, 9m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(540, "9m"), (5400, "1h30m"), (4.5, "4.5s"), (0.1, "0.1s"), (90_061, "25h1m1s"), (0, "0s")]
)
def test_durations_are_formatted_as_in_the_pools_settings(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@given(st.integers(min_value=0, max_value=30 * 86_400_000))
def test_formatted_durations_parse_back_to_the_same_value(milliseconds: int) -> None:
    assert parse_duration(duration_text(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1e-9)
