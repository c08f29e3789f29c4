"""Test that a range is thinned out to what was asked for, and keeps its extremes."""

import json
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from testbed.random_inputs import examples
from web.formats.ranges import extremes, range_json, thinned
from web.model import Entry, Monitor

NOON = datetime(2026, 11, 30, 12)
value = st.floats(-100, 20, allow_nan=False)


@st.composite
def histories(draw: st.DrawFn) -> list[Entry]:
    """Draw rows in the order of time."""
    seconds = sorted(draw(st.lists(st.integers(0, 5_000), max_size=60)))
    return [
        Entry(
            place,
            draw(st.integers(1, 2)),
            NOON + timedelta(seconds=at),
            draw(value),
            1.0,
            draw(st.none() | value),
            draw(st.none() | st.integers(0, 10**6)),
            None,
        )
        for place, at in enumerate(seconds)
    ]


@examples(60)
@given(histories(), st.integers(1, 70))
def test_thinned(history: list[Entry], most: int) -> None:
    kept = thinned(history, most)
    assert len(kept) <= most
    assert kept == sorted(set(kept), key=lambda entry: entry.id) and set(kept) <= set(history)
    assert bool(kept) == bool(history)
    if len(history) <= most:
        assert kept == history
    if most >= 6 and history:
        for name in ("score", "offset", "rtt"):
            before = [v for e in history if (v := getattr(e, name)) is not None]
            after = [v for e in kept if (v := getattr(e, name)) is not None]
            assert (min(before, default=None), max(before, default=None)) == (
                min(after, default=None),
                max(after, default=None),
            )


def test_few_points_show_the_extremes_of_the_score() -> None:
    history = [
        Entry(n, 1, NOON + timedelta(seconds=n), float(s), 1.0, 0.0, 1, None) for n, s in enumerate([3, 1, 9, 5])
    ]
    assert [entry.score for entry in extremes(history, 2)] == [1.0, 9.0]
    assert [entry.score for entry in thinned(history, 1)] == [1.0]


def test_range_json() -> None:
    monitors = {
        1: Monitor(1, "recentmedian", "score", "active", 20.0, NOON),
        2: Monitor(2, "nlams1-x", "monitor", "testing", 20.0, NOON),
    }
    history = [
        Entry(1, 2, NOON, 19.5, 1.0, -0.000267, 19_500, None),
        Entry(2, 1, NOON, 20.0, 1.0, None, None, None),
        Entry(3, 9, NOON, 20.0, 1.0, None, None, None),  # of a monitor that is not shown
    ]
    assert range_json([], {}, 10) == b"[]\n"
    columns = (
        b'"columns":[{"text":"time","type":"time"},{"text":"score","type":"number"},'
        b'{"text":"rtt","type":"number","unit":"ms"},{"text":"offset","type":"number","unit":"s"}]'
    )
    body = range_json(history, monitors, 10)
    assert body == (
        b'[{"target":"monitor{name=recentmedian}","tags":{"monitor_id":"1","monitor_name":"recentmedian",'
        b'"type":"score","status":"active"},' + columns + b',"values":[[1796040000000,20,null,null]]},'
        b'{"target":"monitor{name=nlams1-x}","tags":{"monitor_id":"2","monitor_name":"nlams1-x",'
        b'"type":"monitor","status":"testing"},' + columns + b',"values":[[1796040000000,19.5,19.5,-0.000267]]}]\n'
    )
    assert len(json.loads(body)) == 2
