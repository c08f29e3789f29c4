"""Test that readers of the ledger neither wait for writers nor block them."""

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from runtime.db.engine import reading, transaction
from schema.tables import system_settings

VALUES = {"key": "monitors", "value": "{}", "created_on": sa.func.current_timestamp()}


def test_reader_sees_committed_rows_without_waiting_for_a_writer(engine: Engine) -> None:
    count = sa.select(sa.func.count()).select_from(system_settings)
    with engine.begin() as writer:
        writer.execute(sa.insert(system_settings).values(VALUES))
        with reading(engine) as connection:
            assert connection.scalar(count) == 0
    with reading(engine) as connection:
        assert connection.scalar(count) == 1
        transaction(engine, lambda c: c.execute(sa.delete(system_settings)))
        assert connection.scalar(count) == 0, "an open reader holds no old snapshot"
