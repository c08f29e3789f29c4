"""Test which nodes of a Galera cluster are used: those that are members of the majority, and have all data."""

from collections.abc import Mapping
from typing import Any

import pymysql
import pytest

from runtime.db import connecting
from runtime.db.retry import Reaction, reaction_to

MEMBER = {"wsrep_ready": "ON", "wsrep_cluster_status": "Primary", "wsrep_local_state": "4"}


class _Driver:
    """Stands in for a connection to a node, which only a cluster can have in most of these states."""

    def __init__(self, states: Mapping[str, str], read_only: str = "OFF", innodb_read_only: str = "OFF") -> None:
        self.in_cluster = bool(states)
        switches = {"read_only": read_only, "innodb_read_only": innodb_read_only}
        self._answers = {"STATUS": list(states.items()), "VARIABLES": list(switches.items())}
        self._rows: list[Any] = []

    def cursor(self) -> "_Driver":
        return self

    def __enter__(self) -> "_Driver":
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, statement: str) -> None:
        self._rows = self._answers[statement.split()[2]]

    def fetchall(self) -> list[Any]:
        return self._rows


def why_unfit(
    states: Mapping[str, str], read_only: str = "OFF", innodb_read_only: str = "OFF"
) -> pymysql.MySQLError | None:
    driver: Any = _Driver(states, read_only, innodb_read_only)
    return connecting._why_unfit(driver)


def test_member_of_the_majority_is_fit() -> None:
    assert why_unfit(MEMBER) is None
    assert why_unfit({}) is None, "a server without a cluster"


@pytest.mark.parametrize("state", ["1", "2", "3"])
def test_node_that_joins_or_sends_its_data_is_used_only_where_there_is_no_other(state: str) -> None:
    assert "sends its data" in str(why_unfit({**MEMBER, "wsrep_local_state": state}))


@pytest.mark.parametrize("read_only", ["ON", "NO_LOCK"])
def test_read_only_server_is_used_only_where_there_is_no_other(read_only: str) -> None:
    assert "read-only" in str(why_unfit(MEMBER, read_only))
    assert "read-only" in str(why_unfit({}, read_only))
    assert "read-only" in str(why_unfit({}, innodb_read_only="ON")), "a replica of Aurora"


@pytest.mark.parametrize(
    "lost", [{"wsrep_ready": "OFF"}, {"wsrep_cluster_status": "non-Primary"}, {"wsrep_cluster_status": "Disconnected"}]
)
def test_node_without_a_majority_cannot_be_used(lost: Mapping[str, str]) -> None:
    with pytest.raises(pymysql.OperationalError, match="left its cluster") as refused:
        why_unfit({**MEMBER, **lost})
    assert reaction_to(refused.value) is Reaction.RECONNECT
