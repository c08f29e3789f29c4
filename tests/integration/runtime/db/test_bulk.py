"""Test bulk statements: rows in one JSON text arrive unchanged, whatever they contain, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any, NamedTuple

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy.engine import URL, Connection, Engine

from runtime.db.bulk import (
    BulkDelete,
    BulkInsert,
    BulkSelect,
    BulkUpdate,
    in_this_order,
    insert_or_ignore,
    json_rows,
    rows_table,
    stored_day,
    stored_time,
    upsert,
)
from schema.tables.columns import bigint, bigint_u, boolean, datetime6, int_u, mediumint, text_bin, tinyint_u, ulid
from schema.tables.pool import TABLE_OPTIONS
from testbed.random_inputs import examples

HOSTILE = ["'", "\\'", "'; DROP TABLE servers; --", '"\\"', "\x00\n\x1a", "%s %(name)s ::x :rows", "ü€🕑", ""]

Column = sa.Column
things = sa.Table(
    "things",
    sa.MetaData(),
    Column("id", bigint_u(), primary_key=True),
    Column("batch", ulid(), nullable=False),
    # Names that one of the servers reserves.
    Column("rank", int_u()),
    Column("key", bigint(), quote=True),
    Column("tiny", tinyint_u()),
    Column("medium", mediumint()),
    Column("flag", boolean()),
    Column("ratio", sa.Double),
    Column("at", sa.DateTime),
    Column("exactly", datetime6()),
    Column("kind", sa.Enum("one", "other", name="kind")),
    Column("name", sa.String(20)),
    Column("topic", text_bin(20)),
    Column("stored", sa.Text),
    Column("copy", sa.Text),
    sa.UniqueConstraint("batch", "rank", name="things_batch"),
    **TABLE_OPTIONS,
)


class Thing(NamedTuple):
    batch: str
    rank: int = 0
    key: int | None = None
    tiny: int | None = None
    medium: int | None = None
    flag: bool | None = None
    ratio: float | None = None
    at: datetime | None = None
    exactly: datetime | None = None
    kind: str | None = None
    name: str | None = None
    topic: str | None = None
    stored: str | None = None


class Found(NamedTuple):
    batch: str
    rank: int
    stored: str | None


class Renamed(NamedTuple):
    batch: str
    rank: int
    stored: str | None


LARGEST = Thing(
    "Z" * 26,
    rank=2**32 - 1,
    key=-(2**63),
    tiny=255,
    medium=-(2**23),
    flag=True,
    ratio=0.1 + 0.2,
    at=datetime(9999, 12, 31, 23, 59, 59),
    exactly=datetime(2026, 1, 2, 3, 4, 5, 678901),
    kind="other",
    name="€" * 20,
    topic="ü" * 20,
    stored="x" * 65535,
)

REFUSED = (sa.exc.DataError, sa.exc.OperationalError)
"""Errors of a server about values, as opposed to syntax."""

ADD = BulkInsert(things, Thing)
RENAME = BulkUpdate(things, Renamed, key=["batch", "rank"], also={"copy": "stored"})


@pytest.fixture
def with_things(engine: Engine) -> Iterator[Engine]:
    with made(engine.url):
        yield engine


@pytest.fixture
def server_with_things(server_engine: Engine) -> Iterator[Engine]:
    with made(server_engine.url):
        yield server_engine


@contextmanager
def made(url: URL) -> Iterator[None]:
    # Not by the engine under test, which raises MySQL's warnings of deprecation as errors: TINYINT(1) is deprecated.
    admin = sa.create_engine(url, poolclass=sa.NullPool)
    things.create(admin)
    try:
        yield
    finally:
        things.drop(admin)


def add(engine: Engine, *rows: Thing) -> None:
    with engine.begin() as connection:
        ADD.execute(connection, rows)


def stored(engine: Engine, *names: str) -> list[Any]:
    """Return these columns of all rows, ordered by id."""
    with engine.connect() as connection:
        query = sa.select(*(things.c[name] for name in names)).order_by(things.c.id)
        return [tuple(row) for row in connection.execute(query)]


# ---- writing -----------------------------------------------------------------------------------------------------


def test_inserted_rows_are_stored_unchanged(with_things: Engine) -> None:
    nothing = Thing("A" * 26)
    add(with_things, LARGEST, nothing)
    assert stored(with_things, *Thing._fields) == [LARGEST, nothing]


def test_hostile_texts_are_stored_literally(with_things: Engine) -> None:
    add(with_things, *(Thing("A", rank=n, name=text[:20], stored=text) for n, text in enumerate(HOSTILE)))
    assert stored(with_things, "name", "stored") == [(text[:20], text) for text in HOSTILE]


def test_generated_ids_are_in_the_order_of_the_rows(with_things: Engine) -> None:
    ranks = [n * 7919 % 1000 for n in range(1000)]
    add(with_things, *(Thing("A", rank=rank) for rank in ranks))
    found = stored(with_things, "id", "rank")
    assert [rank for _, rank in found] == ranks
    assert found[-1][0] - found[0][0] == 999


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": "A" * 27},
        {"batch": "ü"},
        {"rank": 2**32},
        {"rank": -1},
        {"rank": 2**64},
        {"tiny": 256},
        {"tiny": -1},
        {"medium": 2**23},
        {"medium": 2**40},
        {"flag": 128},
        {"kind": "neither"},
        {"name": "x" * 21},
        {"topic": "x" * 21},
    ],
    ids=str,
)
def test_inserting_a_value_that_does_not_fit_fails_and_stores_nothing(
    server_with_things: Engine, wrong: dict[str, Any]
) -> None:
    add(server_with_things, Thing("A"))
    with pytest.raises(REFUSED):
        add(server_with_things, Thing("B"), Thing("C")._replace(**wrong))
    assert stored(server_with_things, "batch") == [("A",)]


@pytest.mark.parametrize("wrong", [256, -1, 2**70])
def test_updating_to_a_value_that_does_not_fit_fails_and_changes_nothing(
    server_with_things: Engine, wrong: int
) -> None:
    class Tiny(NamedTuple):
        batch: str
        tiny: int

    update = BulkUpdate(things, Tiny, key=["batch"])
    add(server_with_things, Thing("A", tiny=1), Thing("B", tiny=2))
    with pytest.raises(REFUSED), server_with_things.begin() as connection:
        update.execute(connection, [Tiny("A", 3), Tiny("B", wrong)])
    assert stored(server_with_things, "tiny") == [(1,), (2,)]


def test_update_changes_existing_rows_only(with_things: Engine) -> None:
    add(with_things, Thing("A"), Thing("B", stored="as it was"), Thing("C"))
    with with_things.begin() as connection:
        updated = RENAME.execute(connection, [Renamed("C", 0, "c"), Renamed("A", 0, None), Renamed("B", 1, "b")])
        none = RENAME.execute(connection, [])
    assert (updated, none) == (2, 0)
    assert stored(with_things, "batch", "stored", "copy") == [
        ("A", None, None),
        ("B", "as it was", None),
        ("C", "c", "c"),
    ]


def test_computed_values_of_an_update_can_refer_to_the_row(with_things: Engine) -> None:
    class Key(NamedTuple):
        rank: int

    c, at = things.c, sa.bindparam("at", type_=things.c.at.type)
    earlier = sa.case((sa.or_(c.at.is_(None), c.at > at), at), else_=c.at)
    count = BulkUpdate(things, Key, key=["rank"], also={"key": c.key + sa.literal_column("1"), "at": earlier})
    first, last = datetime(2026, 1, 1), datetime(2026, 1, 3)
    add(with_things, *(Thing("A", n, key=n, at=at) for n, at in enumerate([None, first, last])))
    with with_things.begin() as connection:
        assert count.execute(connection, [Key(2), Key(1), Key(0)], at=datetime(2026, 1, 2)) == 3
    assert stored(with_things, "key", "at") == [(1, datetime(2026, 1, 2)), (2, first), (3, datetime(2026, 1, 2))]


class Named(NamedTuple):
    batch: str
    name: str


def test_insert_or_ignore_leaves_existing_rows_unchanged(with_things: Engine) -> None:
    ignore = insert_or_ignore(things, Named, common=["rank", "at"])
    with with_things.begin() as connection:
        ignore.execute(connection, [Named("A", "first")], rank=1, at=None)
        ignore.execute(connection, [Named("A", "second"), Named("B", "first")], rank=1, at=datetime(2026, 1, 2))
        ignore.execute(connection, [], rank=1, at=None)
    assert stored(with_things, "batch", "name", "at") == [("A", "first", None), ("B", "first", datetime(2026, 1, 2))]


def test_insert_or_ignore_ignores_duplicate_keys_only(server_with_things: Engine) -> None:
    ignore = insert_or_ignore(things, Named, common=["rank"])
    with pytest.raises(REFUSED), server_with_things.begin() as connection:
        ignore.execute(connection, [Named("A", "x" * 21)], rank=1)
    with pytest.raises(sa.exc.IntegrityError):
        add(server_with_things, Thing("A"), Thing("A"))


def test_upsert_updates_the_given_columns_of_existing_rows(with_things: Engine) -> None:
    put = upsert(things, Renamed, common=["key"], key=["batch", "rank"], update=["stored"])
    with with_things.begin() as connection:
        put.execute(connection, [Renamed("A", 1, "first")], key=1)
        put.execute(connection, [Renamed("A", 1, "second"), Renamed("A", 2, "other")], key=2)
    assert stored(with_things, "rank", "stored", "key") == [(1, "second", 1), (2, "other", 2)]


def test_rows_are_deleted_by_their_key(with_things: Engine) -> None:
    add(with_things, Thing("A"), Thing("B"), Thing("C"))
    ids = [id_ for (id_,) in stored(with_things, "id")]
    with with_things.begin() as connection:
        BulkDelete(things).execute(connection, [(ids[2],), (ids[0],), (ids[2] + 1,)])
        BulkDelete(things).execute(connection, [])
    assert stored(with_things, "batch") == [("B",)]


# ---- reading -----------------------------------------------------------------------------------------------------


def wanted_things() -> sa.Select[Any]:
    c = things.c
    wanted = rows_table("wanted", c.batch, c.rank)
    same = sa.and_(c.batch == wanted.c.batch, c.rank == wanted.c.rank)
    return in_this_order(sa.select(c.batch, c.rank, c.stored).select_from(wanted.join(things, same)))


WANTED = BulkSelect(wanted_things(), Found)


def test_rows_are_found_by_their_keys(with_things: Engine) -> None:
    add(with_things, *(Thing("A", n, stored=text) for n, text in enumerate(HOSTILE)), Thing("a", 0), Thing("B", 0))
    wanted = {"wanted": json_rows([("A", n) for n in range(len(HOSTILE))] + [("b", 0), ("A", 2**40)])}
    with with_things.connect() as connection:
        as_json = WANTED.rows(connection, wanted)
        as_rows = [Found._make(row) for row in connection.execute(WANTED.sqlite, wanted)]
        none = WANTED.rows(connection, {"wanted": json_rows([])})
    assert sorted(as_json) == sorted(as_rows) == [Found("A", n, text) for n, text in enumerate(HOSTILE)]
    assert none == []


def test_select_can_be_repeated_with_other_keys(with_things: Engine) -> None:
    """The statement is cached, but its parameters must not be."""
    add(with_things, Thing("A", 1), Thing("B", 2))
    with with_things.connect() as connection:
        for key in [("A", 1), ("B", 2)]:
            found = WANTED.rows(connection, {"wanted": json_rows([key])})
            assert [(row.batch, row.rank) for row in found] == [key]


def plan_of(connection: Connection, statement: Any, name: str, rows: object) -> list[tuple[str, str, str]]:
    """Return how a server reaches each table: its name, the kind of access, and the index."""
    mysql = connection.dialect.name == "mysql"
    compiled = statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": False})
    how = "EXPLAIN FORMAT=TRADITIONAL " if mysql else "EXPLAIN "
    found = connection.exec_driver_sql(how + str(compiled), {name: rows}).mappings()
    return [(row["table"], row["type"].lower(), row["key"]) for row in found]


def test_query_plans_reach_the_large_table_by_its_key(server_with_things: Engine) -> None:
    add(server_with_things, *(Thing(f"{n:026}", n) for n in range(2_000)))
    keys, ids = json_rows([(f"{n:026}", n) for n in range(1_000)]), json_rows([(n,) for n in range(1_000)])
    with server_with_things.connect() as connection:
        connection.exec_driver_sql("ANALYZE TABLE `things`").all()
        reads = [plan_of(connection, query, "wanted", keys) for query in (WANTED.mysql, WANTED.sqlite)]
        update = plan_of(connection, RENAME.mysql, "rows", keys)
        delete = plan_of(connection, BulkDelete(things).mysql, "rows", ids)
    for name, plan in (("wanted", reads[0]), ("wanted", reads[1]), ("rows", update)):
        assert plan == [(name, "all", None), ("things", plan[1][1], "things_batch")]
        assert plan[1][1] in {"ref", "eq_ref"}
    assert delete == [("rows", "all", None), ("things", "eq_ref", "PRIMARY")]


# ---- the JSON text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES,ANSI_QUOTES"])
def test_servers_take_any_text_as_a_value_in_every_sql_mode(server_engine: Engine, mode: str) -> None:
    with server_engine.connect() as connection:
        connection.execute(sa.text("SET SESSION sql_mode = :mode"), {"mode": mode})
        found = connection.scalar(sa.text("SELECT :rows"), {"rows": json_rows(HOSTILE)})
        connection.invalidate()  # so that no other test gets a connection with this mode
    assert msgspec.json.decode(found) == HOSTILE


def test_sqlite_takes_json_rows_as_text() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT typeof(:rows)"), {"rows": json_rows([1])}) == "text"
        found = connection.scalar(sa.text("SELECT :rows"), {"rows": json_rows(HOSTILE)})
    assert msgspec.json.decode(found) == HOSTILE


SECONDS = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(lambda moment: moment.replace(microsecond=0))


class Sent(NamedTuple):
    key: int
    ratio: float | None
    stored: str
    at: datetime | None


ADD_SENT = BulkInsert(things, Sent, common=["batch", "rank"])
SENT = BulkSelect(sa.select(*(things.c[name] for name in Sent._fields)), Sent)


@given(
    st.builds(
        Sent,
        st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300),
        st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
        st.none() | SECONDS,
    )
)
@examples(60, suppress=[HealthCheck.function_scoped_fixture])
def test_row_survives_the_round_trip_unchanged(with_things: Engine, row: Sent) -> None:
    with with_things.connect() as connection:
        ADD_SENT.execute(connection, [row], batch="A", rank=0)
        assert SENT.rows(connection, {}) == [row]
        connection.rollback()


def test_query_result_larger_than_1_mib_is_not_truncated(with_things: Engine) -> None:
    """By default, MariaDB truncates such a text after 1 MiB."""
    add(with_things, *(Thing("A", rank=n, key=n, ratio=0.1, stored="x" * 1_000) for n in range(5_000)))
    with with_things.connect() as connection:
        found = SENT.rows(connection, {})
    assert sorted(found) == [Sent(n, 0.1, "x" * 1_000, None) for n in range(5_000)]


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
def test_stored_time_parses_times_and_returns_none_for_zero_times(
    stored: datetime | str | None, time: datetime | None
) -> None:
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
def test_stored_day_parses_dates_and_makes_zero_dates_the_earliest(stored: date | str | None, day: date | None) -> None:
    assert stored_day(stored) == day
