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
    """A ledger with one monitor and its servers, and the journal and record of the monitor's batches."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine = engine
        self.tree: dict[str, bytes] = {}
        self._journal, self._record = directory / "journal", directory / "record"
        self._later_records: list[Path] = []
        self._lines: list[Line] = [Began(1)]
        with engine.begin() as connection:
            self._monitor = add_monitor(connection, NAME)

    def batch(self, results: int = 1) -> Batch:
        """Return a batch with results of new servers."""
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
        """Store the batch in the ledger, and score its servers."""
        ((_, ack),) = commit(self.engine, [Submission(NAME, "v4", batch, ARRIVED, size=250)], utc_now()).acks
        assert isinstance(ack, BatchCommitted) and ack.stored == len(batch.results)
        add_missing_scorers(self.engine, all_scorers())
        score_due(self.engine, all_scorers(), Intervals(), utc_now(), 100)
        return ack

    def spool(self, batch: Batch, *then: Answered | Why, whole: bool = True) -> None:
        """Record that the batch entered the agent's spool, and was answered or left the spool."""
        number = len(self._lines)
        self._lines.append(Storing(number, batch.id, msgspec.Raw(encode(batch))))
        self._lines += [Stored(number)] if whole else []
        self._lines += [Leaving(number, one) if isinstance(one, str) else one for one in then]

    def load(self, kind: Kind, batch: Batch, *answers: Ack) -> None:
        """Record that a load generator sent the batch."""
        results = () if kind == "malformed" else batch.results
        with Record(self._record) as record:
            record.sent(1, NAME, "v4", Made(batch.id, kind, b"", results))
            for answer in answers:
                record.answered(2, NAME, "v4", answer)

    def load_of_next_round(self, *answers: Ack) -> None:
        """Record that the next round's load generator received acknowledgements."""
        self._later_records.append(self._record.with_suffix(f".{len(self._later_records)}"))
        with Record(self._later_records[-1]) as record:
            for answer in answers:
                record.answered(3, NAME, "v4", answer)

    def verdict(self, measured: int | None = None) -> Verdict:
        self._journal.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in self._lines))
        records = [*([self._record] if self._record.exists() else []), *self._later_records]
        return judge(self.engine, [Diary(NAME, self._journal, measured)], records, self.tree)


@pytest.fixture
def one(sqlite_engine: Engine, tmp_path: Path) -> Round:
    """Return a round."""
    return Round(sqlite_engine, tmp_path)


def kinds(verdict: Verdict) -> list[str]:
    return [difference.kind for difference in verdict.differences]


def test_sound_round_has_the_right_counts_and_no_differences(one: Round) -> None:
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


def test_acknowledgement_may_arrive_in_the_next_round(one: Round) -> None:
    batch = one.batch()
    one.load("duplicate", batch, ack := one.commit(batch))
    one.load_of_next_round(ack)
    assert one.verdict().differences == ()


def test_spooled_batch_missing_from_the_ledger_is_lost(one: Round) -> None:
    batch = one.batch()
    one.spool(batch)
    [found] = one.verdict().differences
    assert found.kind == "lost"
    assert batch.id in found.text


@pytest.mark.parametrize(("kind", "lost"), [("plain", ["lost"]), ("late", ["lost"]), ("malformed", [])])
def test_readable_batch_of_a_load_generator_must_be_stored(one: Round, kind: Kind, lost: list[str]) -> None:
    one.load(kind, one.batch())
    assert kinds(one.verdict()) == lost


@pytest.mark.parametrize("why", ["expired", "put aside"])
def test_batch_that_an_agent_gave_up_is_lost(one: Round, why: Why) -> None:
    batch = one.batch()
    one.commit(batch)
    one.spool(batch, why)
    [found] = one.verdict().differences
    assert found.kind == "lost"
    assert f"was {why} by its agent" in found.text


def test_acknowledged_batch_missing_from_the_ledger_is_reported_twice(one: Round) -> None:
    """Both the journal's batch and the acknowledgement prove it."""
    batch = one.batch()
    one.spool(batch, Answered(BatchCommitted(batch=batch.id, stored=1)), "acknowledged")
    assert kinds(one.verdict()) == ["lost", "lost"]


@pytest.mark.parametrize(("measured", "found"), [(3, ["lost"]), (2, []), (1, ["invented"]), (None, [])])
def test_agent_whose_count_differs_from_its_journal_is_a_difference(
    one: Round, measured: int | None, found: list[str]
) -> None:
    batch = one.batch(2)
    one.spool(batch, Answered(one.commit(batch)), "acknowledged")
    assert kinds(one.verdict(measured)) == found


def test_unsent_or_withdrawn_batches_and_missing_assignments_are_found(one: Round) -> None:
    unsent = one.batch()
    one.commit(unsent)
    one.spool(one.batch(), "withdrawn")
    one.tree.popitem()
    assert sorted(kinds(one.verdict())) == ["assignment", "invented", "invented"]


def test_rejected_result_of_an_honest_agent_is_a_difference(one: Round) -> None:
    batch = one.batch()
    with one.engine.begin() as connection:
        connection.execute(sa.delete(server_scores))
        connection.execute(sa.delete(servers))
    ((_, ack),) = commit(one.engine, [Submission(NAME, "v4", batch, ARRIVED, size=250)], utc_now()).acks
    assert isinstance(ack, BatchCommitted) and len(ack.rejected) == 1
    one.spool(batch, Answered(ack), "acknowledged")
    one.tree.clear()
    assert kinds(one.verdict()) == ["misjudged"]
