"""Test that no lost answer, in any order, leaves a host without its key, or with two registrations or keys.

The real ``setup`` runs against a real API process, and the answer to some of its requests is lost after the API has
acted.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from agent.api_client import Answer, ApiUnreachable
from agent.setup import Setup, Wanted
from agent.state import StateDirectory
from auth.api_key_store import authenticate
from auth.registration.model import Confirmed
from runtime.db.engine import reading, transaction
from schema.names import IpVersion
from schema.tables import api_keys, metadata, monitor_registrations, monitors
from testbed.fixtures.api_process import FAST, ApiProcess, LocalClient
from testbed.fixtures.registering import OPERATOR, account
from testbed.ports import NO_IPV6, has_ipv6

MOST_LOST = 6
"""Requests of an undisturbed run, after which a loss changes nothing."""


class LosingClient(LocalClient):
    """A client that loses the answers to some of its requests, and a person who confirms in time."""

    def __init__(self, running: ApiProcess, lost: Collection[int], owned: int) -> None:
        super().__init__(f"http://localhost:{running.port}", seconds=30)
        self._running, self._lost, self._owned = running, lost, owned
        self.asked = 0

    def request(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        family: IpVersion | None = None,
        key: str | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        self._confirm()
        answer = super().request(method, path, family=family, key=key, body=body, headers=headers)
        self.asked += 1
        if self.asked - 1 in self._lost:
            raise ApiUnreachable("lost", "answer")
        return answer

    def _confirm(self) -> None:
        now = datetime.now(UTC)
        for shown in self._running.these.listed(now, status="pending"):
            if shown.ip4 and shown.ip6:
                done = self._running.these.confirm(
                    shown.verification_token, account_id=self._owned, location="nlams", by=OPERATOR, now=now
                )
                assert isinstance(done, Confirmed), done


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    if not has_ipv6():
        pytest.skip(NO_IPV6)
    with ApiProcess(tmp_path_factory.mktemp("api"), API_ADDRESS="127.0.0.1,::1") as made:
        yield made


def emptied(connection: Connection) -> None:
    for table in reversed(metadata.sorted_tables):
        if table.name != "ledger_origin":
            connection.execute(table.delete())


def count(connection: Connection, table: Any) -> int:
    return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def test_every_lost_answer_leaves_one_registration_and_one_key(running: ApiProcess, tmp_path: Path) -> None:
    one, two = ((number,) for number in range(MOST_LOST)), itertools.pairwise(range(MOST_LOST))
    for lost in [(), *one, *two, (0, 2), (1, 4), tuple(range(MOST_LOST))]:
        transaction(running.engine, emptied)
        owned = account(running.engine, "4xhq2c9")
        state = StateDirectory(tmp_path / "-".join(map(str, ("lost", *lost))), "devel")
        state.prepare()
        client = LosingClient(running, lost, owned)
        Setup(state, client, Wanted("host.example", "", ("v4", "v6")), lambda line: None, FAST).run()
        stored = state.read_file().api
        assert stored is not None and not state.registration_file.exists()
        with reading(running.engine) as connection:
            assert (count(connection, monitor_registrations), count(connection, api_keys)) == (1, 1), lost
            assert count(connection, monitors) == 2, lost
        found = authenticate(running.engine, running.these.peppers, stored.key, datetime.now(UTC))
        assert found is not None and len(found.monitor_ids) == 2, lost
    assert "Traceback" not in running.process.log_text()
