"""Test the pool's settings in the ledger: reading, defaults for invalid ones, and timely updates."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy.engine import URL, Engine

from runtime.db import system_settings as settings_module
from runtime.db.engine import open_database
from runtime.db.system_settings import (
    REREAD,
    Intervals,
    PoolSettings,
    PoolSettingsReader,
    Reviews,
    Scoring,
    all_settings,
)
from schema.tables import system_settings
from testbed.random_inputs import examples


def put(engine: Engine, key: str, value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    with engine.begin() as connection:
        connection.execute(sa.delete(system_settings).where(system_settings.c.key == key))
        row = {"key": key, "value": text, "created_on": datetime(2026, 1, 1)}
        connection.execute(sa.insert(system_settings).values(row))


def test_defaults_apply_without_any_settings(engine: Engine) -> None:
    found = PoolSettingsReader(engine).get()
    assert found == PoolSettings()
    assert [found.monitors.of(status) for status in ("active", "testing", "candidate")] == [540, 2700, 7200]


def test_settings_of_operators_are_read(engine: Engine) -> None:
    put(engine, "monitors", {"interval_active": 2, "interval_testing": 4.5, "samples": 1, "of the future": []})
    put(engine, "selector", {"review_changed": 5, "target_active": 3, "target_testing": 1})
    put(engine, "scorer", {"batch_size": 10})
    put(engine, "of somebody else", "no JSON")
    assert PoolSettingsReader(engine).get() == PoolSettings(
        monitors=Intervals(interval_active=2, interval_testing=4.5, samples=1),
        selector=Reviews(review_changed=5, target_active=3, target_testing=1),
        scorer=Scoring(batch_size=10),
    )


@pytest.mark.parametrize(
    ("value", "intervals"),
    [
        (
            {"interval_active": "9m", "interval_testing": "45m", "interval_all": "2h", "batch_size": 10},
            (540.0, 2700.0, 7200.0),
        ),
        ({"interval_active": "1h30m", "interval_testing": "1.5m", "interval_all": "500ms"}, (5400.0, 90.0, 0.5)),
        ({"interval_active": 8, "interval_testing": "2m", "interval_all": 60}, (8.0, 120.0, 60.0)),
        ({"interval_candidate": "3h", "interval_all": "2h"}, (540.0, 2700.0, 10_800.0)),
        ({"interval_active": "720h", "interval_testing": "100ms"}, (2_592_000.0, 0.1, 7200.0)),
    ],
)
def test_durations_in_the_format_of_the_pool_are_accepted(
    engine: Engine, value: Any, intervals: tuple[float, float, float], caplog: pytest.LogCaptureFixture
) -> None:
    put(engine, "monitors", value)
    put(engine, "selector", {"review_changed": "1h", "review_unchanged": "10m"})
    found = PoolSettingsReader(engine).get()
    assert [found.monitors.of(status) for status in ("active", "testing", "candidate")] == list(intervals)
    assert (found.selector.review_changed, found.selector.review_unchanged) == (3600.0, 600.0)
    assert found.monitors.batch_size == 10
    assert caplog.messages == []


def test_bounds_and_defaults_are_the_documented_ones() -> None:
    duration = (0.1, 2_592_000)
    assert {str(one): (one.default, (one.meta.ge, one.meta.le)) for one in all_settings()} == {
        "monitors.interval_active": (540, duration),
        "monitors.interval_testing": (2700, duration),
        "monitors.interval_candidate": (7200, duration),
        "monitors.samples": (3, (1, 10)),
        "monitors.batch_size": (10, (1, 1_000)),
        "selector.review_changed": (3600, duration),
        "selector.review_unchanged": (1200, duration),
        "selector.target_active": (7, (1, 50)),
        "selector.target_testing": (5, (1, 50)),
        "selector.prefer_healthy": (0, (0, 1)),
        "scorer.batch_size": (200, (1, 10_000)),
    }


@pytest.mark.parametrize("value", ["", "no JSON", "[]", "7", "null", '{"interval_active": 2', '{"a": NaN}'])
def test_value_that_is_not_an_object_means_defaults_and_is_logged(
    sqlite_engine: Engine, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(sqlite_engine, "monitors", value)
    put(sqlite_engine, "scorer", {"batch_size": 10})
    assert PoolSettingsReader(sqlite_engine).get() == PoolSettings(scorer=Scoring(batch_size=10))
    [message] = caplog.messages
    assert message.startswith("system_settings 'monitors' is not a JSON object")


@pytest.mark.parametrize(
    ("key", "field", "value", "default"),
    [
        ("monitors", "interval_active", 0, 540.0),
        ("monitors", "interval_active", -1, 540.0),
        ("monitors", "interval_active", "9", 540.0),
        ("monitors", "interval_active", "-9m", 540.0),
        ("monitors", "interval_active", "9 minutes", 540.0),
        ("monitors", "interval_active", "99ms", 540.0),
        ("monitors", "interval_active", 540_000_000_000, 540.0),
        ("monitors", "interval_testing", "721h", 2700.0),
        ("monitors", "interval_candidate", "soon", 7200.0),
        ("monitors", "interval_all", "soon", 7200.0),
        ("monitors", "interval_all", 0, 7200.0),
        ("monitors", "batch_size", 0, 10),
        ("monitors", "batch_size", "10", 10),
        ("monitors", "batch_size", 1_001, 10),
        ("monitors", "interval_active", None, 540.0),
        ("monitors", "interval_testing", 1e300, 2700.0),
        ("monitors", "interval_candidate", 2_592_001, 7200.0),
        ("monitors", "samples", 11, 3),
        ("monitors", "samples", 2.5, 3),
        ("selector", "target_active", 0, 7),
        ("selector", "target_active", 51, 7),
        ("selector", "target_testing", 0, 5),
        ("selector", "review_unchanged", [20], 1200.0),
        ("selector", "prefer_healthy", True, 0),
        ("selector", "prefer_healthy", 2, 0),
        ("scorer", "batch_size", 0, 200),
        ("scorer", "batch_size", 10_001, 200),
        ("scorer", "batch_size", True, 200),
    ],
)
def test_invalid_field_is_replaced_by_its_default_and_logged(
    sqlite_engine: Engine, key: str, field: str, value: Any, default: Any, caplog: pytest.LogCaptureFixture
) -> None:
    others = {"monitors": {"interval_active": 2}, "selector": {"review_changed": 5}, "scorer": {}}[key]
    put(sqlite_engine, key, {**others, field: value})
    found = getattr(PoolSettingsReader(sqlite_engine).get(), key)
    assert getattr(found, "interval_candidate" if field == "interval_all" else field) == default
    assert all(getattr(found, other) == kept for other, kept in others.items() if other != field)
    [message] = caplog.messages
    assert message.startswith(f"system_settings {key}.{field}: ")
    assert message.endswith(f": its default {default} is used")


@pytest.mark.parametrize("depth", [500, 990, 1_000, 1_010, 5_000])
def test_deeply_nested_value_is_merely_invalid(sqlite_engine: Engine, depth: int) -> None:
    put(sqlite_engine, "monitors", f'{{"samples": {"[" * depth}{"]" * depth}, "interval_active": 2}}')
    assert PoolSettingsReader(sqlite_engine).get().monitors.samples == 3


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [1_000.0]
    monkeypatch.setattr(settings_module.time, "monotonic", lambda: moment[0])
    return moment


def test_settings_are_read_again_after_a_minute(engine: Engine, now: list[float]) -> None:
    reader = PoolSettingsReader(engine)
    assert reader.get().scorer.batch_size == 200
    put(engine, "scorer", {"batch_size": 10})
    now[0] += REREAD - 1
    assert reader.get().scorer.batch_size == 200
    now[0] += 1
    assert reader.get().scorer.batch_size == 10


def test_invalid_value_is_logged_once_until_it_changes(
    sqlite_engine: Engine, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    reader = PoolSettingsReader(sqlite_engine)

    def said(value: Any) -> list[str]:
        caplog.clear()
        put(sqlite_engine, "scorer", {"batch_size": value})
        now[0] += 60
        reader.get()
        return [record.levelname for record in caplog.records]

    assert said(0) == ["WARNING"]
    assert [said(0) for _ in range(5)] == [[]] * 5
    assert said("x") == ["WARNING"]
    assert said("x") == []
    assert said(10) == []
    assert said("x") == ["WARNING"]


def test_reader_raises_during_a_database_outage_and_then_recovers(
    sqlite_engine: Engine, now: list[float], tmp_path: Path
) -> None:
    put(sqlite_engine, "scorer", {"batch_size": 10})
    away = open_database(URL.create("sqlite", database=str(tmp_path / "gone" / "ledger.db")))
    reader = PoolSettingsReader(sqlite_engine)
    assert reader.get().scorer.batch_size == 10
    reader._engine = away
    now[0] += REREAD
    with pytest.raises(sa.exc.DBAPIError):
        reader.get()
    reader._engine = sqlite_engine
    assert reader.get().scorer.batch_size == 10
    away.dispose()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.from_regex(r"[0-9]{1,3}(ns|us|ms|s|m|h)", fullmatch=True),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
FIELDS = [
    "interval_all",
    "interval_active",
    "interval_testing",
    "interval_candidate",
    "samples",
    "target_active",
    "batch_size",
]


@given(
    st.text(max_size=20) | st.dictionaries(st.sampled_from(FIELDS), json_values).map(json.dumps),
    st.sampled_from(["monitors", "selector", "scorer"]),
)
@examples(50, suppress=[HealthCheck.function_scoped_fixture])
def test_arbitrary_settings_yield_values_within_the_bounds(sqlite_engine: Engine, text: str, key: str) -> None:
    put(sqlite_engine, key, text)
    found = PoolSettingsReader(sqlite_engine).get()
    for seconds in (found.monitors.interval_active, found.monitors.interval_candidate):
        assert 0.1 <= seconds <= 30 * 86_400
    assert 1 <= found.monitors.samples <= 10
    assert 1 <= found.selector.target_active <= 50
    assert 1 <= found.scorer.batch_size <= 10_000
