"""Test a table of monitors limited to three-byte characters: an unusual version does not block other rows."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import sqlalchemy as sa
from opentelemetry.metrics import NoOpMeter
from sqlalchemy.engine import Engine

from ingest.last_seen import Seen, write_last_seen
from ingest.messages import Presence, read_status
from ingest.persist import persist_each
from ingest.presence import write_presence
from runtime.db.engine import open_database
from runtime.db.metrics import DatabaseMetrics
from runtime.db.migrate import upgrade
from runtime.health import Contact
from runtime.mqtt.session import Incoming
from runtime.worker import Doubts, Worker
from schema.messages import ProtocolState, Status, decode, encode
from schema.tables import monitor_presence, monitors
from schema.tables import pool as pool_tables
from testbed.fixtures.database import DatabaseServer
from testbed.fixtures.world import add_monitor, monitor_name

NOW = datetime(2026, 1, 20, 12)
BUG = "1.0-\N{BUG}"


@pytest.fixture
def narrow(server: DatabaseServer) -> Iterator[Engine]:
    """Create an adopted database with such a table."""
    engine = open_database(server.create("narrow"))
    with engine.begin() as connection:
        pool_tables.metadata.create_all(connection, tables=[pool_tables.metadata.tables[n] for n in pool_tables.NAMES])
        connection.execute(
            sa.text("ALTER TABLE `monitors` CONVERT TO CHARACTER SET utf8mb3 COLLATE utf8mb3_unicode_ci")
        )
    upgrade(engine)
    yield engine
    with engine.begin() as connection:
        connection.execute(sa.text("DROP DATABASE `narrow`"))
    engine.dispose()


class Direct:
    """Replace the worker: write immediately."""

    def __init__(self) -> None:
        self.contact, self.doubts = Contact(), Doubts()
        self.database = DatabaseMetrics(NoOpMeter("test"))

    async def in_database(self, work: Any, judge_defect: Any) -> Any:
        return await Worker.in_database(cast(Worker, self), work, judge_defect)


async def test_unusual_version_does_not_block_other_monitors(narrow: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with narrow.begin() as connection:
        ids = [add_monitor(connection, monitor_name(f"m{number}")) for number in range(5)]
    seen = [Seen(number, NOW, version=BUG if number == ids[2] else "1.0") for number in ids]
    write_last_seen(narrow, seen)
    with narrow.connect() as connection:
        found = {r.id: r.client_version for r in connection.execute(sa.select(monitors))}
    assert found == {number: "1.0-?" if number == ids[2] else "1.0" for number in ids}
    # Without the replacement of characters, only this row is lost.
    monkeypatch.setattr("ingest.last_seen.plain_version", str)
    later = [Seen(each.monitor_id, NOW.replace(hour=13), version=each.version) for each in seen]
    lost: dict[int, str] = {}

    def lose(sighting: Seen, why: str) -> None:
        lost[sighting.monitor_id] = why

    await persist_each(cast(Worker, Direct()), lambda some: write_last_seen(narrow, some), later, lose)
    assert list(lost) == [ids[2]]
    with narrow.connect() as connection:
        times = {r.id: r.last_seen for r in connection.execute(sa.select(monitors))}
    assert {number for number, when in times.items() if when == NOW.replace(hour=13)} == set(ids) - {ids[2]}


def test_presence_with_any_characters_is_stored(narrow: Engine) -> None:
    name = monitor_name("m")
    with narrow.begin() as connection:
        add_monitor(connection, name)
    state = ProtocolState(status="active", probing=False, assignments=0, assignments_hash="", why_not=BUG)
    said = encode(Status(online=True, version=BUG, protocols={"v4": state}))
    presence = read_status(name, Incoming("", said), NOW.replace(tzinfo=UTC))
    assert isinstance(presence, Presence)
    write_presence(narrow, [presence])
    with narrow.connect() as connection:
        row = connection.execute(sa.select(monitor_presence)).one()
    kept = decode(row.status.encode(), Status)
    assert (row.tls_name, kept.version, kept.protocols["v4"].why_not) == (name, "1.0-?", BUG)
