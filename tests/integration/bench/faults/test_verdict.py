"""Test the verdict on a round of faults: every result from a spool is in the ledger, or a difference."""

from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from bench.faults.journal import Answered, Began, Leaving, Line, Stored, Storing, Why
from bench.faults.verdict import Diary, Verdict, judge
from ingest.messages import Submission
from ingest.transaction import commit
from runtime.db.engine import utc_now
from runtime.db.system_settings import Intervals
from schema.messages import Ack, Assignment, Batch, BatchCommitted, Result, encode
from schema.tables import server_scores, servers
from schema.topics import Topics
from scorer.rounds import score_due
from scorer.scorers import all_scorers
from scorer.worker import add_missing_scorers
from testbed.fixtures.batches import ARRIVED, new_batch, new_result
from testbed.fixtures.world import add_monitor, add_pair, add_server, monitor_name
from testbed.load.record import Record
from testbed.load.traffic import Kind, Made

NAME = monitor_name("one")
TOPICS = Topics("devel")


class Round:
    """A ledger with one monitor and its servers, and what was written down of the monitor's batches."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine = engine
        self.tree: dict[str, bytes] = {}
        self._journal, self._record = directory / "journal", directory / "record"
        self._lines: list[Line] = [Began(1)]
        with engine.begin() as connection:
            self._monitor = add_monitor(connection, NAME)

    def batch(self, results: int = 1) -> Batch:
        """A batch of servers of its own."""
        return new_batch(*(self._result() for _ in range(results)))

    def _result(self) -> Result:
        with self.engine.begin() as connection:
            server = add_server(connection)
            add_pair(connection, server, self._monitor)
            ip = connection.scalar(sa.select(servers.c.ip).where(servers.c.id == server)) or ""
        told = Assignment(server_id=server, ip=ip, status="active", interval=Intervals().interval_active)
        self.tree[TOPICS.assignment(NAME, "v4", server)] = encode(told)
        return new_result(server, ip)

    def commit(self, batch: Batch) -> BatchCommitted:
        """Into the ledger, and scored."""
        ((_, ack),) = commit(self.engine, [Submission(NAME, "v4", batch, ARRIVED, size=250)], utc_now()).acks
        assert isinstance(ack, BatchCommitted) and ack.stored == len(batch.results)
        add_missing_scorers(self.engine, all_scorers())
        score_due(self.engine, all_scorers(), Intervals(), utc_now(), 100)
        return ack

    def spool(self, batch: Batch, *then: Answered | Why, whole: bool = True) -> None:
        """Into the agent's spool; then it is answered, or leaves the spool."""
        number = len(self._lines)
        self._lines.append(Storing(number, batch.id, msgspec.Raw(encode(batch))))
        self._lines += [Stored(number)] if whole else []
        self._lines += [Leaving(number, one) if isinstance(one, str) else one for one in then]

    def load(self, kind: Kind, batch: Batch, *answers: Ack) -> None:
        """Sent by a load generator."""
        results = () if kind == "malformed" else batch.results
        with Record(self._record) as record:
            record.sent(1, NAME, "v4", Made(batch.id, kind, b"", results))
            for answer in answers:
                record.answered(2, NAME, "v4", answer)

    def verdict(self, measured: int | None = None) -> Verdict:
        self._journal.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in self._lines))
        records = [self._record] if self._record.exists() else []
        return judge(self.engine, [Diary(NAME, self._journal, measured)], records, self.tree)


@pytest.fixture
def one(sqlite_engine: Engine, tmp_path: Path) -> Round:
    """A round."""
    return Round(sqlite_engine, tmp_path)


def kinds(verdict: Verdict) -> list[str]:
    return [difference.kind for difference in verdict.differences]


def test_a_sound_round_has_its_figures_and_no_difference(one: Round) -> None:
    told, untold, withdrawn, of_load = one.batch(3), one.batch(2), one.batch(4), one.batch(5)
    one.spool(told, Answered(one.commit(told)), "acknowledged")
    one.commit(untold)
    one.spool(untold)
    one.spool(withdrawn, "withdrawn")
    one.spool(one.batch(), whole=False)
    one.load("plain", of_load, one.commit(of_load))
    assert one.verdict(measured=5) == Verdict(
        attempted=3 + 2 + 4 + 1 + 5, acknowledged=3 + 5, stored=3 + 2 + 5, discarded=4, differences=()
    )


def test_what_was_in_a_spool_and_is_not_in_the_ledger_is_lost_though_nobody_was_told_otherwise(one: Round) -> None:
    batch = one.batch()
    one.spool(batch)
    [found] = one.verdict().differences
    assert found.kind == "lost"
    assert batch.id in found.text


@pytest.mark.parametrize(("kind", "lost"), [("plain", ["lost"]), ("late", ["lost"]), ("malformed", [])])
def test_what_a_load_sent_must_arrive_when_it_can_be_read(one: Round, kind: Kind, lost: list[str]) -> None:
    one.load(kind, one.batch())
    assert kinds(one.verdict()) == lost


@pytest.mark.parametrize("why", ["expired", "put aside"])
def test_what_an_agent_gave_up_is_lost(one: Round, why: Why) -> None:
    batch = one.batch()
    one.commit(batch)
    one.spool(batch, why)
    [found] = one.verdict().differences
    assert found.kind == "lost"
    assert f"was {why} by its agent" in found.text


def test_what_was_acknowledged_and_is_not_in_the_ledger_is_found_twice(one: Round) -> None:
    """By the spool that held it, and by the answer that came."""
    batch = one.batch()
    one.spool(batch, Answered(BatchCommitted(batch=batch.id, stored=1)), "acknowledged")
    assert kinds(one.verdict()) == ["lost", "lost"]


@pytest.mark.parametrize(("measured", "found"), [(3, ["lost"]), (2, []), (1, ["invented"]), (None, [])])
def test_an_agent_that_counts_otherwise_than_its_spool_is_a_difference(
    one: Round, measured: int | None, found: list[str]
) -> None:
    batch = one.batch(2)
    one.spool(batch, Answered(one.commit(batch)), "acknowledged")
    assert kinds(one.verdict(measured)) == found


def test_what_the_checker_finds_and_what_is_not_told_are_differences(one: Round) -> None:
    unsent = one.batch()
    one.commit(unsent)
    one.spool(one.batch(), "withdrawn")
    one.tree.popitem()
    assert sorted(kinds(one.verdict())) == ["assignment", "invented", "invented"]


def test_an_honest_agents_result_is_never_rejected(one: Round) -> None:
    batch = one.batch()
    with one.engine.begin() as connection:
        connection.execute(sa.delete(server_scores))
        connection.execute(sa.delete(servers))
    ((_, ack),) = commit(one.engine, [Submission(NAME, "v4", batch, ARRIVED, size=250)], utc_now()).acks
    assert isinstance(ack, BatchCommitted) and len(ack.rejected) == 1
    one.spool(batch, Answered(ack), "acknowledged")
    one.tree.clear()
    assert kinds(one.verdict()) == ["misjudged"]
