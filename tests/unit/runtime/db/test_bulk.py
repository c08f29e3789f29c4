"""Test bulk statements derived from the tables: quoted names, sufficiently wide types, errors instead of NULL."""

import importlib
from typing import Any, Final, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from sqlalchemy.engine import Dialect

from runtime.db.bulk import (
    BulkDelete,
    BulkInsert,
    BulkSelect,
    BulkUpdate,
    JsonText,
    by_index,
    in_this_order,
    insert_or_ignore,
    rows_table,
    upsert,
)
from schema.tables import log_scores, metadata, result_batches, scoring_queue, server_scores
from testbed.fixtures.sql import unquoted

MODULES: Final = ["ingest.store", "scorer.store", "selector.pairs", "selector.triggers", "selector.write"]
"""All modules that write many rows."""


class Key(NamedTuple):
    monitor_id: int
    batch: str
    stored: int


def statements() -> list[str]:
    """Return the MySQL text of every bulk statement in use, and of some for this test."""
    found: list[Any] = [
        each
        for module in MODULES
        for each in vars(importlib.import_module(module)).values()
        if isinstance(each, BulkInsert | BulkUpdate)
    ]
    assert {module.mysql.text.split()[0] for module in found} == {"INSERT", "UPDATE"}
    assert len(found) > 8, "there are that many"
    found += [
        BulkDelete(result_batches),
        insert_or_ignore(result_batches, Key, ["received_on"]),
        upsert(result_batches, Key, ["received_on"], key=["monitor_id", "batch"], update=["stored"]),
        BulkUpdate(
            result_batches,
            Key,
            key=["monitor_id", "batch"],
            also={"rejected": sa.func.coalesce(result_batches.c.rejected, sa.bindparam("text"))},
        ),
    ]
    return [statement.mysql.text for statement in found]


def test_names_are_quoted() -> None:
    assert [(text, words) for text in statements() if (words := unquoted(text.replace("coalesce", "COALESCE")))] == []


def test_statements_raise_errors_instead_of_writing_null() -> None:
    assert [text for text in statements() if text.count(" PATH '") != text.count(" ERROR ON ERROR")] == []


def test_rows_are_locked_in_the_given_order() -> None:
    """Otherwise an optimizer might begin with a small table."""
    changes = [text for text in statements() if text.startswith(("UPDATE", "DELETE"))]
    assert len(changes) > 4
    assert [text for text in changes if " AS `rows` STRAIGHT_JOIN `" not in text] == []


@pytest.mark.parametrize("dialect", [mysql.dialect(), MariaDBDialect()], ids=["mysql", "mariadb"])
def test_the_order_of_joins_is_kept(dialect: Dialect) -> None:
    wanted = rows_table("wanted", scoring_queue.c.server_id)
    joined = wanted.join(scoring_queue, wanted.c.server_id == scoring_queue.c.server_id)
    query = by_index(in_this_order(sa.select(scoring_queue.c.stored).select_from(joined)), scoring_queue, "some")
    text = " ".join(str(query.compile(dialect=dialect)).split())
    assert text.startswith("SELECT STRAIGHT_JOIN scoring_queue.")
    assert "AS `wanted` INNER JOIN scoring_queue FORCE INDEX (`some`) ON" in text


def test_types_are_wider_than_the_columns() -> None:
    class Row(NamedTuple):
        monitor_id: int
        score: float
        offset: float
        rtt: int
        ts: str
        attributes: str

    assert (
        "(`monitor_id` BIGINT PATH '$[0]' ERROR ON ERROR, `score` DOUBLE PATH '$[1]' ERROR ON ERROR, "
        "`offset` DOUBLE PATH '$[2]' ERROR ON ERROR, `rtt` BIGINT PATH '$[3]' ERROR ON ERROR, "
        "`ts` DATETIME PATH '$[4]' ERROR ON ERROR, `attributes` TEXT PATH '$[5]' ERROR ON ERROR)"
    ) in BulkInsert(log_scores, Row).mysql.text


def test_times_keep_their_fractional_digits() -> None:
    class Row(NamedTuple):
        received_on: str

    assert "`received_on` DATETIME(6) PATH" in BulkInsert(result_batches, Row).mysql.text


def test_text_keys_have_the_columns_character_set() -> None:
    ascii = "`batch` TEXT CHARACTER SET ASCII COLLATE ASCII_BIN PATH"
    assert ascii in BulkUpdate(result_batches, Key, key=["monitor_id", "batch"]).mysql.text
    assert ascii in BulkDelete(result_batches).mysql.text
    assert "`batch` TEXT PATH" in BulkInsert(result_batches, Key).mysql.text, "where it is written, it is refused"


def test_unsupported_or_unknown_columns_are_refused_at_once() -> None:
    class Payload(NamedTuple):
        payload: bytes

    class Unknown(NamedTuple):
        something: int

    with pytest.raises(TypeError, match="payload"):
        BulkInsert(metadata.tables["rejected_messages"], Payload)
    with pytest.raises(KeyError):
        BulkInsert(log_scores, Unknown)


def test_keys_that_databases_format_differently_are_refused() -> None:
    with pytest.raises(TypeError, match="score_ts"):
        rows_table("wanted", server_scores.c.score_ts)
    with pytest.raises(TypeError, match="score_raw"):
        rows_table("wanted", server_scores.c.score_raw)


def test_query_columns_must_match_the_row_type() -> None:
    class Pair(NamedTuple):
        monitor_id: int
        server_id: int

    columns = scoring_queue.c.server_id, server_scores.c.monitor_id
    with pytest.raises(ValueError, match="monitor_id"):
        BulkSelect(sa.select(*columns), Pair)


def test_json_text_is_shown_unchanged() -> None:
    assert str(JsonText(b"[1]")) == "[1]"
