"""Test that reviews join monitors and presence by name if the pool's tables have another collation."""

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from schema.tables import pool as pool_tables
from selector.store import read_inputs
from testbed.fixtures.database import DatabaseServer
from testbed.fixtures.selector import set_presence, unique
from testbed.fixtures.world import add_monitor, add_pair, add_server


def collation(connection: Connection, table: str) -> str:
    query = "SELECT collation_name FROM information_schema.columns WHERE table_schema = DATABASE() "
    where = "AND table_name = :table AND column_name = 'tls_name'"
    return str(connection.scalar(sa.text(query + where), {"table": table}))


def test_monitors_with_another_collation_are_joined_with_their_presence(server: DatabaseServer) -> None:
    engine = open_database(server.create("collations"))
    with engine.begin() as connection:
        pool_tables.metadata.create_all(connection, tables=[pool_tables.metadata.tables[n] for n in pool_tables.NAMES])
        change = "ALTER TABLE monitors MODIFY tls_name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_swedish_ci"
        connection.execute(sa.text(change))
    upgrade(engine)
    now, name = datetime.now(UTC), unique("m")
    with engine.begin() as connection:
        assert collation(connection, "monitors") == collation(connection, "monitor_presence") == "utf8mb4_swedish_ci"
        measured, monitor = add_server(connection), add_monitor(connection, name)
        add_pair(connection, measured, monitor)
        set_presence(connection, name, seen=now)
        [found] = read_inputs(connection, [measured], now)[measured].monitors
        assert not found.gone
    engine.dispose()
