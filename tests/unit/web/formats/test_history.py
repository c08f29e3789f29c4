"""Test the formats of histories against files of ours, and for any values."""

import csv
import io
import json
import math
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.paths import CHECKOUT
from web.formats.history import CSV_HEADER, history_csv, history_json, monitors_json, quoted, without_controls
from web.formats.numbers import decimal, plain
from web.model import Entry, Monitor, from_epoch, newest_first, oldest_first

GOLDEN = CHECKOUT / "tests" / "unit" / "web" / "formats" / "golden"
IP = "192.0.2.7"
NOON = datetime(2026, 11, 30, 12)
MONITORS = [
    Monitor(1, "recentmedian", "score", "active", 19.96, NOON),
    Monitor(12, "nlams1-x", "monitor", "active", 20.0, NOON),
    Monitor(13, "uspao1-y", "monitor", "testing", -4.26, None),
    Monitor(14, "not-in-the-history", "monitor", "candidate", 1.0, None),
]
ENTRIES = [
    Entry(9, 1, NOON, 19.957265432109876, 1.0, None, None, '{"from_ls_id":8}'),
    Entry(8, 12, NOON, 20.0, 1.0, -0.000267, 19_500, '{"leap":1,"stratum":2}'),
    Entry(7, 13, NOON - timedelta(minutes=9), -4.0, -5.0, None, None, '{"error":"network: \\"no\\", \\u0007"}'),
    Entry(6, 13, NOON - timedelta(minutes=18), -0.0, 1 / 3, -1e-10, 1_001, None),
    Entry(5, 12, NOON - timedelta(minutes=27), 1e-12, -1e-9, 2.5e-9, 16_777_215, "{}"),
]
NAMES = {one.id: one.name for one in MONITORS}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("history.json", history_json(IP, ENTRIES, MONITORS)),
        ("empty.json", history_json(IP, [], [])),
        ("monitors.json", monitors_json(MONITORS)),
        ("history.csv", history_csv(IP, ENTRIES, NAMES)),
        ("empty.csv", history_csv(IP, [], {})),
    ],
)
def test_bytes_are_as_in_our_files(name: str, body: bytes) -> None:
    assert body == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (19.5, "19.5"),
        (-0.000267, "-0.000267"),
        (0.0, "0"),
        (-0.0, "0"),
        (-1e-10, "0"),
        (1e-9, "0.000000001"),
        (1e20, "100000000000000000000"),
        (-100.0, "-100"),
        (16777.215, "16777.215"),
    ],
)
def test_decimal(value: float, text: str) -> None:
    assert decimal(value) == text


finite = st.floats(-1e9, 1e9, allow_nan=False)


@given(finite)
def test_decimals_are_the_nearest_with_nine_places(value: float) -> None:
    text = decimal(value)
    assert "e" not in text and text != "-0" and not text.endswith(".")
    assert not ("." in text and text.endswith("0"))
    assert abs(Decimal(text) - Decimal(value)) <= Decimal("0.5e-9")


@given(finite)
def test_numbers_in_json_are_exact(value: float) -> None:
    found = plain(value)
    assert found == value and math.copysign(1, found or 1) == math.copysign(1, value or 1)
    assert isinstance(found, int) == value.is_integer()


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(texts)
def test_a_field_is_read_back_as_it_was(text: str) -> None:
    line = f"a,{quoted(without_controls(text))},z\n"
    assert list(csv.reader([line], strict=True)) == [["a", without_controls(text), "z"]]
    assert len(line.splitlines()) == 1


def test_control_characters_are_named() -> None:
    assert without_controls("a\x00\x1b\x7f\x85\u2028b,é") == "a<0x00><0x1B><0x7F><0x85><0x2028>b,é"


moments = st.integers(0, 4_000_000_000).map(from_epoch)
entries = st.builds(
    Entry,
    st.integers(1, 2**63),
    st.sampled_from([1, 12, 13]),
    moments,
    finite,
    finite,
    st.none() | finite,
    st.none() | st.integers(-(2**23), 2**23),
    st.none() | texts.map(lambda text: json.dumps({"error": text, "leap": 1})),
)


@given(st.lists(entries, max_size=8))
def test_every_row_and_column_is_there(history: list[Entry]) -> None:
    ordered = newest_first(history)
    assert oldest_first(history) == ordered[::-1] or len({(e.ts, e.id) for e in history}) < len(history)
    rows = list(csv.reader(io.StringIO(history_csv(IP, ordered, NAMES).decode()), strict=True))
    assert rows[0] == CSV_HEADER.split(",") and {len(row) for row in rows} == {10}
    found: dict[str, Any] = json.loads(history_json(IP, ordered, MONITORS))
    assert [int(row[0]) for row in rows[1:]] == [one["ts"] for one in found["history"]] == [e.epoch for e in ordered]
    for entry, one in zip(ordered, found["history"], strict=True):
        assert list(one) == [
            name
            for name in ("ts", "offset", "step", "score", "monitor_id", "rtt")
            if name not in ("offset", "rtt") or getattr(entry, name) is not None
        ]
        assert one["score"] == round(entry.score, 12)
    assert [one["id"] for one in found["monitors"]] == sorted({entry.monitor_id for entry in history})


def test_lone_surrogates_do_not_break_an_answer() -> None:
    entry = ENTRIES[0]._replace(attributes='{"error":"\\ud800"}')
    assert history_csv(IP, [entry], NAMES).decode().endswith(",?\n")
