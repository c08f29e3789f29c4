"""Rows that travel as one JSON text arrive as they were sent, whatever is in them and whatever a quote means there."""

from datetime import date, datetime

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from runtime.db.json_rows import JsonText, json_rows, rows_of, stored_day, stored_time
from testbed.random_inputs import examples

HOSTILE = ["'", "\\'", "'; DROP TABLE servers; --", '"\\"', "\x00\n\x1a", "%s %(name)s ::x", "ü€🕑", ""]


@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES,ANSI_QUOTES"])
def test_mysql_takes_any_text_as_a_value_in_every_mode(server_engine: Engine, mode: str) -> None:
    with server_engine.connect() as connection:
        connection.execute(sa.text("SET SESSION sql_mode = :mode"), {"mode": mode})
        found = connection.scalar(sa.text("SELECT :rows"), {"rows": json_rows(HOSTILE)})
        connection.invalidate()  # nobody else shall have the mode
    assert msgspec.json.decode(found) == HOSTILE


def test_sqlite_takes_it_as_text() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT typeof(:rows)"), {"rows": json_rows([1])}) == "text"
        found = connection.scalar(sa.text("SELECT :rows"), {"rows": json_rows(HOSTILE)})
    assert msgspec.json.decode(found) == HOSTILE


SECONDS = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(lambda moment: moment.replace(microsecond=0))

Row = tuple[int, float | None, str, datetime | None]
_TABLE = sa.text("""
    SELECT JSON_ARRAYAGG(JSON_ARRAY(`a`, `b`, `c`, `d`)) FROM JSON_TABLE(:rows, '$[*]' COLUMNS (
        `a` BIGINT PATH '$[0]', `b` DOUBLE PATH '$[1]', `c` TEXT PATH '$[2]', `d` DATETIME PATH '$[3]')) AS `taken`
""")


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300),
            st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
            st.none() | SECONDS,
        ),
        max_size=20,
    )
)
@examples(60, suppress=[HealthCheck.function_scoped_fixture])
def test_rows_go_there_and_back_unchanged(server_engine: Engine, rows: list[Row]) -> None:
    with server_engine.connect() as connection:
        text = connection.scalar(_TABLE, {"rows": json_rows(rows)})
    assert rows_of(text, msgspec.json.Decoder(list[Row])) == rows


def test_many_rows_come_whole(server_engine: Engine) -> None:
    """MariaDB itself cuts such a text off after 1 MiB."""
    rows: list[Row] = [(number, 0.1, "x" * 1_000, None) for number in range(5_000)]
    with server_engine.connect() as connection:
        text = connection.scalar(_TABLE, {"rows": json_rows(rows)})
    assert rows_of(text, msgspec.json.Decoder(list[Row])) == rows


@pytest.mark.parametrize(
    ("stored", "time"),
    [
        ("2026-01-02 03:04:05", datetime(2026, 1, 2, 3, 4, 5)),
        ("2026-01-02 03:04:05.000000", datetime(2026, 1, 2, 3, 4, 5)),
        ("0000-00-00 00:00:00", None),
        (None, None),
        (datetime(2026, 1, 2), datetime(2026, 1, 2)),
    ],
)
def test_a_time_that_is_none_is_read_as_none(stored: datetime | str | None, time: datetime | None) -> None:
    assert stored_time(stored) == time


@pytest.mark.parametrize(
    ("stored", "day"),
    [
        ("2026-01-02", date(2026, 1, 2)),
        ("0000-00-00", date.min),
        (None, None),
        (date(2026, 1, 2), date(2026, 1, 2)),
    ],
)
def test_a_day_that_is_none_is_the_first_of_all(stored: date | str | None, day: date | None) -> None:
    assert stored_day(stored) == day


def test_it_is_shown_as_text() -> None:
    assert str(JsonText(b"[1]")) == "[1]"
