"""Test the counters of errors and retries with errors of real databases."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from runtime.db.engine import open_database, transaction
from runtime.db.metrics import KINDS, DatabaseMetrics
from runtime.db.retry import DatabaseUnavailable
from testbed.fixtures.world import add_server


class Counted:
    """An engine whose errors and retries are counted."""

    def __init__(self, engine: Engine) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader])
        self.engine = open_database(engine.url)
        DatabaseMetrics(self._provider.get_meter("test")).attach(self.engine)

    def numbers(self) -> dict[str, dict[str, int]]:
        """Return the counts that are not zero by kind: of errors, and of retries."""
        data: Any = self._reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        found = {m.name: {p.attributes["kind"]: p.value for p in m.data.data_points} for m in metrics}
        assert all(counts.keys() == set(KINDS) for counts in found.values()), "each kind has a series from the start"
        return {
            name.removeprefix("ntppool.database."): {kind: number for kind, number in counts.items() if number}
            for name, counts in found.items()
        }

    def end(self) -> None:
        self.engine.dispose()
        self._provider.shutdown()


@pytest.fixture
def counted(server_engine: Engine) -> Iterator[Counted]:
    made = Counted(server_engine)
    yield made
    made.end()


def failing(*errors: int) -> Any:
    """Return work to which the server answers with each of these errors, then none."""
    left = list(errors)

    def work(connection: Connection) -> str:
        if left:
            connection.exec_driver_sql(f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {left.pop(0)}")
        return "done"

    return work


def test_deadlocks_are_conflicts_and_each_is_tried_again(counted: Counted) -> None:
    assert transaction(counted.engine, failing(1213, 1205)) == "done"
    assert counted.numbers() == {"errors": {"conflict": 2}, "retries": {"conflict": 2}}


def test_a_duplicate_key_is_a_constraint(counted: Counted) -> None:
    def twice(connection: Connection) -> None:
        server = add_server(connection)
        connection.execute(sa.text("INSERT INTO `scoring_queue` (`server_id`) VALUES (:id), (:id)"), {"id": server})

    with pytest.raises(DBAPIError):
        transaction(counted.engine, twice)
    assert counted.numbers() == {"errors": {"constraint": 1}, "retries": {}}


def test_a_read_only_server_is_unavailable_and_a_missing_table_a_defect(counted: Counted) -> None:
    with pytest.raises(DatabaseUnavailable):
        transaction(counted.engine, failing(1290))
    with pytest.raises(DBAPIError):
        transaction(counted.engine, lambda connection: connection.exec_driver_sql("SELECT * FROM `no_such_table`"))
    assert counted.numbers() == {"errors": {"unavailable": 1, "defect": 1}, "retries": {}}
