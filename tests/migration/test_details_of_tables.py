"""Test details of migrated tables that Alembic does not compare: collations, fractions of seconds, auto_increment, row
formats."""

import re
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from schema.tables import metadata
from testbed.fixtures.database import DatabaseServer

_DETAILS: Final = (
    "SELECT table_name, column_name, column_type, collation_name, is_nullable, column_default, extra "
    "FROM information_schema.columns WHERE table_schema = DATABASE()",
    "SELECT table_name, index_name, seq_in_index, column_name, non_unique "
    "FROM information_schema.statistics WHERE table_schema = DATABASE()",
    "SELECT table_name, referenced_table_name, delete_rule, update_rule "
    "FROM information_schema.referential_constraints WHERE constraint_schema = DATABASE()",
    "SELECT table_name, engine, row_format, table_collation "
    "FROM information_schema.tables WHERE table_schema = DATABASE()",
)


def details(engine: Engine) -> set[tuple[Any, ...]]:
    """Return all details that the server has of our tables and the pool's."""
    with engine.connect() as connection:
        rows = [tuple(row) for query in _DETAILS for row in connection.exec_driver_sql(query)]
    return {row for row in rows if row[0] in metadata.tables}


def test_migrated_tables_equal_the_metadata_in_every_detail(server: DatabaseServer) -> None:
    migrated, known = (open_database(server.create(name)) for name in ("details", "details_known"))
    try:
        upgrade(migrated)
        metadata.create_all(known)
        assert {row[0] for row in details(known)} == set(metadata.tables)
        assert details(migrated) == details(known)
    finally:
        migrated.dispose()
        known.dispose()


OWN_COLUMNS: Final = {
    ("server_traceroutes", "traced_on"): ("datetime(6)", None),
    ("server_traceroutes", "traces"): ("text", "utf8mb4"),
    ("assignment_changes", "changed_on"): ("datetime(6)", None),
    ("assignment_changes", "id"): ("bigint unsigned", None),
    ("assignment_changes", "reason"): ("varchar(255)", "utf8mb4"),
    ("ledger_origin", "recorded_on"): ("datetime(6)", None),
    ("monitor_presence", "seen"): ("datetime(6)", None),
    ("monitor_presence", "status"): ("text", "utf8mb4"),
    ("rejected_messages", "bytes"): ("int", None),
    ("rejected_messages", "id"): ("bigint unsigned", None),
    ("rejected_messages", "payload"): ("mediumblob", None),
    ("rejected_messages", "payload_hash"): ("varchar(64)", "utf8mb4_bin"),
    ("rejected_messages", "reason"): ("varchar(1000)", "utf8mb4"),
    ("rejected_messages", "topic"): ("varchar(500)", "utf8mb4_bin"),
    ("result_batches", "batch"): ("char(26)", "ascii_bin"),
    ("result_batches", "monitor_id"): ("int unsigned", None),
    ("result_batches", "received_on"): ("datetime(6)", None),
    ("scoring_queue", "due_on"): ("datetime(6)", None),
    ("scoring_queue", "stored"): ("bigint unsigned", None),
    ("selector_seen", "gone"): ("tinyint", None),
    ("selector_seen", "ip"): ("varchar(40)", "utf8mb4"),
}
"""Type and beginning of the collation. The server chooses the collation if only the character set is given."""

OWN_KEYS: Final = {
    "assignment_changes": ["id"],
    "ledger_origin": ["id"],
    "monitor_presence": ["tls_name"],
    "rejected_messages": ["id"],
    "result_batches": ["monitor_id", "batch"],
    "scoring_queue": ["server_id"],
    "selector_seen": ["monitor_id"],
    "server_traceroutes": ["id"],
}

COUNTED: Final = {"assignment_changes", "rejected_messages", "server_traceroutes"}
"""Our tables with an auto_increment key."""


def test_our_tables_have_the_documented_types_keys_and_auto_increment(server_engine: Engine) -> None:
    columns, indexes, *_ = _DETAILS
    with server_engine.connect() as connection:
        found = {(row[0], row[1]): row for row in connection.exec_driver_sql(columns) if row[0] in OWN_KEYS}
        keys: dict[str, list[str]] = {}
        for row in sorted(connection.exec_driver_sql(indexes), key=lambda row: (row[0], row[1], row[2])):
            if row[1] == "PRIMARY" and row[0] in OWN_KEYS:
                keys.setdefault(row[0], []).append(row[3])
    assert keys == OWN_KEYS
    for column, (type_, collation) in OWN_COLUMNS.items():
        # The display width has no effect, and MySQL does not show it.
        assert re.sub(r"(int)\(\d+\)", r"\1", found[column][2]) == type_, column
        assert (found[column][3] or "").startswith(collation or ""), column
        assert (found[column][3] is None) is (collation is None), column
    assert {table for (table, _), row in found.items() if "auto_increment" in row[6].lower()} == COUNTED


def test_deleting_a_server_deletes_its_dependent_rows(engine: Engine) -> None:
    """This includes SQLite, which has its own syntax for the rule."""
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        of_servers = {
            table: key["options"].get("ondelete")
            for table in inspector.get_table_names()
            for key in inspector.get_foreign_keys(table)
            if key["referred_table"] == "servers"
        }
    assert of_servers == dict.fromkeys(HANG_ON_SERVERS, "CASCADE")


HANG_ON_SERVERS: Final = {
    "assignment_changes",
    "log_scores",
    "score_traces",
    "scoring_queue",
    "server_alerts",
    "server_scores",
    "server_traceroutes",
    "servers_monitor_review",
}
