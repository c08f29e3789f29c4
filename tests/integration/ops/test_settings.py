"""Test that operators can show and change settings, and that workers read them, on every database."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from ops.errors import OperatorError, UsageError
from ops.settings import (
    as_given,
    find_setting,
    reset_key,
    reset_setting,
    set_setting,
    setting_lines,
    show_settings,
)
from runtime.db.engine import reading, transaction
from runtime.db.system_settings import PoolSettings, PoolSettingsReader
from schema.tables import system_settings

NOW = datetime(2026, 11, 23, 12, 0, 0)
T = TypeVar("T")


def write(engine: Engine, work: Callable[[Connection], T]) -> T:
    return transaction(engine, work)


def put(engine: Engine, key: str, text: str) -> None:
    row = {"key": key, "value": text, "created_on": NOW}
    write(engine, lambda c: c.execute(sa.insert(system_settings).values(row)))


def stored(engine: Engine) -> dict[str, Any]:
    with reading(engine) as connection:
        return {row.key: json.loads(row.value) for row in connection.execute(sa.select(system_settings))}


def change(engine: Engine, name: str, value: str) -> str:
    setting = find_setting(name)
    text = as_given(setting, value)
    return write(engine, lambda c: set_setting(c, setting, text, NOW))


def reset(engine: Engine, name: str) -> str:
    return write(engine, lambda c: reset_setting(c, find_setting(name)))


def shown(engine: Engine) -> dict[str, dict[str, Any]]:
    with reading(engine) as connection:
        return {one["setting"]: one for one in show_settings(connection)}


def test_workers_read_the_settings_that_operators_set(engine: Engine) -> None:
    said = change(engine, "monitors.interval_active", "8m")
    assert said == "monitors.interval_active: was 9m, is 8m; workers apply it within a minute"
    change(engine, "monitors.samples", "4")
    change(engine, "monitors.interval_testing", "1h30m")
    change(engine, "selector.target_active", "5")
    found = PoolSettingsReader(engine).get()
    assert (found.monitors.interval_active, found.monitors.interval_testing, found.monitors.samples) == (480, 5400, 4)
    assert found.selector.target_active == 5
    assert stored(engine) == {
        "monitors": {"interval_active": "8m", "samples": 4, "interval_testing": "1h30m"},
        "selector": {"target_active": 5},
    }


def test_foreign_values_in_the_same_row_are_kept(engine: Engine) -> None:
    put(engine, "monitors", '{"interval_all": "2h", "of others": [1, {"a": null}], "samples": 2}')
    assert change(engine, "monitors.interval_candidate", "3h").startswith("monitors.interval_candidate: was 2h, is 3h")
    reset(engine, "monitors.samples")
    # Stored under the name that the pool's own programs read.
    assert stored(engine) == {"monitors": {"interval_all": "3h", "of others": [1, {"a": None}]}}
    assert change(engine, "monitors.interval_all", "4h").startswith("monitors.interval_candidate: was 3h, is 4h")
    reset(engine, "monitors.interval_candidate")
    assert stored(engine) == {"monitors": {"of others": [1, {"a": None}]}}
    assert PoolSettingsReader(engine).get() == PoolSettings()


def test_reset_of_a_default_is_reported_as_unchanged(engine: Engine) -> None:
    assert reset(engine, "scorer.batch_size") == "scorer.batch_size: is already 200, its default"
    change(engine, "scorer.batch_size", "10")
    assert "is 200, its default; workers" in reset(engine, "scorer.batch_size")
    assert PoolSettingsReader(engine).get() == PoolSettings()


def test_invalid_row_is_reported_and_can_be_removed(engine: Engine) -> None:
    put(engine, "monitors", "no JSON")
    with pytest.raises(OperatorError, match="'ntppool-monitor settings reset monitors'"):
        change(engine, "monitors.samples", "4")
    with pytest.raises(OperatorError, match="is not a JSON object"):
        reset(engine, "monitors.samples")
    assert "is not a JSON object" in shown(engine)["monitors.samples"]["problem"]
    write(engine, lambda c: reset_key(c, "monitors"))
    assert change(engine, "monitors.samples", "4").startswith("monitors.samples: was 3, is 4")
    with pytest.raises(UsageError, match="key 'of others': must be one of monitors, scorer, selector"):
        write(engine, lambda c: reset_key(c, "of others"))


def test_all_settings_are_shown_with_problems_and_unknown_keys(engine: Engine) -> None:
    put(engine, "monitors", '{"interval_active": 480, "samples": 11, "tpyo": 1, "interval_testing": "soon"}')
    put(engine, "of others", "no JSON")
    found = shown(engine)
    assert found["monitors.interval_active"] == {
        "setting": "monitors.interval_active",
        "value": "8m",
        "is_set": True,
        "problem": None,
        "default": "9m",
        "may_be": "a duration such as 90s, 9m or 1h30m, 0.1s to 720h",
        "meaning": "time between two probes of a server by an active monitor",
    }
    assert (found["monitors.samples"]["value"], found["monitors.samples"]["is_set"]) == (3, False)
    assert found["monitors.samples"]["problem"] == "Expected `int` <= 10"
    assert found["monitors.tpyo"] == {"setting": "monitors.tpyo", "read": False}
    assert found["of others"] == {"setting": "of others", "read": False}
    lines = setting_lines(list(found.values()))
    assert lines[:3] == [
        "monitors.interval_active = 8m (set)",
        "    time between two probes of a server by an active monitor",
        "    a duration such as 90s, 9m or 1h30m, 0.1s to 720h; default 9m",
    ]
    assert "monitors.interval_candidate = 2h (default)" in lines
    assert "monitors.samples = 3 (INVALID, so the default applies: Expected `int` <= 10)" in lines
    assert "    a whole number, 1 to 10; default 3" in lines
    assert "monitors.tpyo: not read by any program of this system" in lines
    with reading(engine) as connection:
        assert len(show_settings(connection, find_setting("monitors.samples"))) == 1


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("monitors.interval_active", "9", "must be a duration such as 90s, 9m or 1h30m, 0.1s to 720h"),
        ("monitors.interval_active", "99ms", "must be a duration"),
        ("monitors.interval_active", "721h", "must be a duration"),
        ("monitors.interval_active", "-9m", "must be a duration"),
        ("monitors.samples", "0", "must be a whole number, 1 to 10"),
        ("monitors.samples", "2.5", "must be a whole number"),
        ("monitors.samples", '"3"', "must be a whole number"),
        ("monitors.samples", "three", "must be a whole number"),
        ("monitors.samples", "", "must be a whole number"),
        ("selector.target_active", "51", "must be a whole number, 1 to 50"),
        ("scorer.batch_size", "true", "must be a whole number, 1 to 10000"),
    ],
)
def test_invalid_value_is_refused_with_the_valid_range(name: str, value: str, named: str) -> None:
    with pytest.raises(UsageError) as raised:
        as_given(find_setting(name), value)
    assert str(raised.value).startswith(f"{name}: {value!r}: ") and named in str(raised.value)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("monitors.interval_activ", "did you mean monitors.interval_active?"),
        ("of others", "see 'ntppool-monitor settings show'"),
        ("interval_active", "setting 'interval_active': not found"),
        ("", "setting '': not found"),
    ],
)
def test_an_unknown_setting_is_refused(name: str, named: str) -> None:
    with pytest.raises(UsageError) as raised:
        find_setting(name)
    assert named in str(raised.value)
