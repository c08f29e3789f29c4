"""Test that the checker finds every kind of difference in a real ledger, and none in a correct one."""

import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from ingest.transaction import commit
from ingest.validate import UNKNOWN_SERVER
from runtime.db.engine import reading, utc_now
from runtime.db.system_settings import Intervals
from runtime.mqtt.session import Identity, Incoming
from schema.messages import Ack, Assignment, BatchCommitted, BatchRefused, encode
from schema.tables import log_scores, monitors, result_batches, scoring_queue, server_scores, servers
from schema.topics import Topics
from scorer.rounds import score_due
from scorer.scorers import all_scorers
from scorer.worker import add_missing_scorers
from testbed.checker import assignments as assignments_module
from testbed.checker.__main__ import main
from testbed.checker.assignments import read_tree
from testbed.checker.batches import Attempt
from testbed.checker.check import Before, Checked, check, read_before
from testbed.checker.difference import MOST_SHOWN, Difference, lines
from testbed.checker.ledger import recent_results
from testbed.checker.replay import LogRow, Replay
from testbed.fixtures.batches import new_result, new_submission
from testbed.fixtures.world import add_log_score, add_monitor, add_pair, add_server, monitor_name

NAMES = [monitor_name("one"), monitor_name("two")]
TOPICS = Topics("devel")


@dataclass
class Run:
    """A ledger after a few batches, with the batches sent and the answers."""

    engine: Engine
    attempts: list[Attempt]
    tree: dict[str, bytes]
    servers: list[int]

    def check(self, **given: Any) -> Checked:
        return check(self.engine, **({"attempts": self.attempts, "tree": self.tree} | given))

    def kinds(self, **given: Any) -> set[str]:
        return {difference.kind for difference in self.check(**given).differences}

    def execute(self, statement: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(statement)

    def first_id(self) -> int:
        """Return the id of the first result's log row."""
        with reading(self.engine) as connection:
            return int(connection.scalar(sa.select(sa.func.min(log_scores.c.id))) or 0)

    def first_row(self) -> dict[str, Any]:
        """Return the first result's log row, without its id."""
        with reading(self.engine) as connection:
            row = dict(connection.execute(sa.select(log_scores).order_by(log_scores.c.id).limit(1)).one()._mapping)
        return {name: value for name, value in row.items() if name != "id"}

    def answer(self, index: int, *answers: Ack) -> None:
        self.attempts[index] = replace(self.attempts[index], answers=answers)


@pytest.fixture
def run(engine: Engine) -> Run:
    """Return a run with two monitors and three servers, with good, bad, late and repeated results, and an undecodable
    batch."""
    with engine.begin() as connection:
        ids = [add_monitor(connection, name) for name in NAMES]
        server_ids = [add_server(connection) for _ in range(3)]
        for server_id in server_ids:
            for monitor_id in ids:
                add_pair(connection, server_id, monitor_id)
        ips = {row.id: row.ip for row in connection.execute(sa.select(servers.c.id, servers.c.ip))}

    def result(number: int, server_id: int, **fields: Any) -> Any:
        given = {"age": 30.0 - number, "offset": 0.001 + number * 1e-6} | fields
        return new_result(server_id, ips[server_id], **given)

    submissions = [
        new_submission(NAMES[0], *(result(n, s) for n, s in enumerate(server_ids))),
        new_submission(NAMES[1], result(4, server_ids[0], offset=0.4), result(5, server_ids[1], no_response=True)),
        new_submission(NAMES[0], result(6, server_ids[0]), new_result(9_999, "192.0.2.1")),
        new_submission(NAMES[1], result(7, server_ids[0], age=3 * 3600.0)),
    ]
    acks = [ack for _, ack in commit(engine, [*submissions, submissions[0]], utc_now()).acks]
    attempts = [
        Attempt(
            ids[NAMES.index(s.name)],
            s.batch.id,
            s.batch.results,
            [ack],
            {} if len(ack.rejected) == 0 else {1: UNKNOWN_SERVER},
        )
        for s, ack in zip(submissions, acks, strict=False)
    ]
    attempts[0] = replace(attempts[0], answers=[acks[0], acks[4]])
    unreadable = new_submission(NAMES[0]).batch.id
    attempts.append(Attempt(ids[0], unreadable, None, [BatchRefused(batch=unreadable, reason="no JSON")]))
    _score(engine)
    return Run(engine, attempts, _tree(ips), server_ids)


def _score(engine: Engine) -> None:
    add_missing_scorers(engine, all_scorers())
    score_due(engine, all_scorers(), Intervals(), utc_now(), 100)


def _tree(ips: dict[int, str]) -> dict[str, bytes]:
    interval = Intervals().interval_active
    return {
        TOPICS.assignment(name, "v4", server_id): encode(
            Assignment(server_id=server_id, ip=ip, status="active", interval=interval)
        )
        for name in NAMES
        for server_id, ip in ips.items()
    }


def test_correct_run_has_no_differences(run: Run) -> None:
    checked = run.check()
    assert checked.differences == ()
    assert (checked.rows, checked.good) == (7, True)


def test_acknowledged_batch_missing_from_the_ledger_is_lost(run: Run) -> None:
    run.execute(sa.delete(result_batches).where(result_batches.c.batch == run.attempts[0].batch))
    assert "lost" in run.kinds()


def test_unacknowledged_batch_may_be_stored_or_not(run: Run) -> None:
    run.answer(0)
    assert run.kinds() == set()
    run.attempts.append(replace(run.attempts[0], batch="0" * 26))
    assert run.kinds() == set()


def test_result_without_a_log_row_is_lost(run: Run) -> None:
    run.execute(sa.delete(log_scores).where(log_scores.c.id == run.first_id()))
    assert "lost" in run.kinds()


def test_partly_stored_batch_is_lost(run: Run) -> None:
    run.execute(sa.update(result_batches).where(result_batches.c.batch == run.attempts[0].batch).values(stored=2))
    assert "lost" in run.kinds()


def test_repeated_row_is_a_duplicate(run: Run) -> None:
    run.execute(sa.insert(log_scores).values(run.first_row()))
    assert "duplicated" in run.kinds()


def test_row_of_an_unsent_result_is_invented(run: Run) -> None:
    run.execute(sa.insert(log_scores).values(run.first_row() | {"offset": 0.0777}))
    assert "invented" in run.kinds()


def test_unsent_batch_is_invented(run: Run) -> None:
    sent = run.attempts.pop(0)
    found = [difference for difference in run.check().differences if difference.kind == "invented"]
    assert any(sent.batch in str(difference) for difference in found)


def test_two_answers_to_one_batch_must_be_the_same(run: Run) -> None:
    ack = run.attempts[1].answers[0]
    run.answer(1, ack, BatchRefused(batch=ack.batch, reason="no"))
    assert run.kinds() == {"contradicted"}


def test_answer_must_agree_with_the_ledger(run: Run) -> None:
    ack = run.attempts[1].answers[0]
    run.answer(1, BatchCommitted(batch=ack.batch, stored=1))
    assert run.kinds() == {"contradicted"}


def test_undecodable_batch_must_not_be_in_the_ledger(run: Run) -> None:
    run.attempts[1] = replace(run.attempts[1], results=None, answers=())
    assert "contradicted" in run.kinds()


def test_a_readable_batch_must_not_be_refused(run: Run) -> None:
    run.answer(1, BatchRefused(batch=run.attempts[1].batch, reason="no"))
    assert run.kinds() == {"misjudged"}


@pytest.mark.parametrize("expected", [{}, {0: UNKNOWN_SERVER}, {1: "another reason"}])
def test_rejected_results_must_be_exactly_the_expected_ones(run: Run, expected: dict[int, str]) -> None:
    run.attempts[2] = replace(run.attempts[2], expected=expected)
    assert run.kinds() == {"misjudged"}


def test_wrong_score_is_reported_with_its_server(run: Run) -> None:
    run.execute(sa.update(log_scores).where(log_scores.c.id == run.first_id()).values(score=log_scores.c.score + 1e-6))
    found = run.check().differences
    assert any(f"server {run.servers[0]}" in str(one) for one in found if one.kind == "score")


def test_wrong_step_is_a_difference(run: Run) -> None:
    run.execute(sa.update(log_scores).where(log_scores.c.step < -4).values(step=-4.0))
    assert "score" in run.kinds()


def test_pair_score_that_differs_from_the_last_row_is_a_difference(run: Run) -> None:
    pair = sa.and_(server_scores.c.server_id == run.servers[2], server_scores.c.score_ts.is_not(None))
    run.execute(sa.update(server_scores).where(pair, server_scores.c.score_raw < 1.5).values(score_raw=1.95))
    assert "score" in run.kinds()


@pytest.mark.parametrize(
    "values", [{"score_raw": 7.0}, {"score_ts": utc_now() - timedelta(days=1)}, {"score_ts": None}]
)
def test_server_score_that_does_not_follow_from_results_is_a_difference(run: Run, values: dict[str, Any]) -> None:
    run.execute(sa.update(servers).where(servers.c.id == run.servers[0]).values(values))
    assert run.kinds() == {"aggregate"}


def test_a_server_with_a_score_but_no_result_is_a_difference(run: Run) -> None:
    with run.engine.begin() as connection:
        server_id = add_server(connection, score=5.0)
        connection.execute(sa.update(servers).where(servers.c.id == server_id).values(score_ts=utc_now()))
    assert "aggregate" in run.kinds()


def test_log_row_of_a_scorer_must_agree_with_its_source_row(run: Run) -> None:
    scorers = sa.select(log_scores.c.id).where(log_scores.c.attributes.like("%from_ls_id%"))
    with run.engine.begin() as connection:
        ids = list(connection.scalars(scorers))
    run.execute(sa.update(log_scores).where(log_scores.c.id.in_(ids)).values(score=-1.0))
    assert run.kinds() == {"aggregate"}


def test_server_that_waits_for_its_score_is_a_difference(run: Run) -> None:
    run.execute(sa.update(scoring_queue).where(scoring_queue.c.server_id == run.servers[0]).values(due_on=utc_now()))
    assert run.kinds() == {"waiting"}


def test_missing_wrong_and_stale_assignments_are_differences(run: Run) -> None:
    first, second, *_ = run.tree
    del run.tree[first]
    run.tree[second] = run.tree[second].replace(b"active", b"testing")
    run.tree[TOPICS.assignment(monitor_name("nobody"), "v4", 1)] = b"{}"
    found = [str(one) for one in run.check().differences]
    assert [one.split(":")[0] for one in found] == ["assignment"] * 3
    assert any("holds nothing" in one for one in found)


def test_rows_from_before_the_run_are_not_checked(run: Run) -> None:
    with reading(run.engine) as connection:
        before = read_before(connection)
    results = run.attempts[0].results
    assert results is not None
    again = new_submission(NAMES[0], results[0])
    ack = commit(run.engine, [again], utc_now()).acks[0][1]
    _score(run.engine)
    attempt = Attempt(run.attempts[0].monitor_id, again.batch.id, again.batch.results, [ack], {})
    checked = run.check(attempts=[attempt], before=before)
    assert (checked.rows, checked.differences) == (1, ())


def test_expired_rows_are_no_difference_if_the_past_is_unknown(run: Run) -> None:
    run.execute(sa.delete(log_scores).where(log_scores.c.id == run.first_id()))
    assert "score" in {one.kind for one in run.check(attempts=None).differences}
    assert run.check(attempts=None, before=Before(unknown=True)).differences == ()


def test_only_the_first_differences_of_a_kind_are_shown() -> None:
    shown = lines(Difference("lost", str(number)) for number in range(MOST_SHOWN + 5))
    assert len(shown) == MOST_SHOWN + 1
    assert shown[-1] == "lost: and 5 more"


@pytest.mark.parametrize(("leap", "error", "wrong"), [(3, None, 1), (3, "not synchronised", 1), (0, None, 0)])
def test_result_of_an_unsynchronised_server_earns_no_positive_step(leap: int, error: str | None, wrong: int) -> None:
    row = LogRow(1, 1, datetime(2026, 1, 2, tzinfo=UTC), 1.0, 1.0, 0.001, 1_000, 2, error, False, leap=leap)
    assert Replay().all([row]).wrong == wrong


def test_maximum_number_of_differences_is_shown_without_a_remainder() -> None:
    assert MOST_SHOWN == 20
    assert list(lines(Difference("lost", str(number)) for number in range(20))) == [f"lost: {n}" for n in range(20)]


def test_rtt_beyond_the_column_range_is_compared_as_stored(run: Run) -> None:
    with reading(run.engine) as connection:
        ip = connection.scalar(sa.select(servers.c.ip).where(servers.c.id == run.servers[0]))
    long = new_submission(NAMES[0], new_result(run.servers[0], str(ip), age=1.0, rtt=9.5, offset=0.002))
    ack = commit(run.engine, [long], utc_now()).acks[0][1]
    _score(run.engine)
    assert ack.stored == 1
    with reading(run.engine) as connection:
        assert connection.scalar(sa.select(sa.func.max(log_scores.c.rtt))) == 8_388_607
    run.attempts.append(Attempt(run.attempts[0].monitor_id, long.batch.id, long.batch.results, [ack], {}))
    assert run.kinds() == set()


@pytest.mark.parametrize(
    ("status", "kinds"), [("active", {"aggregate"}), ("testing", {"aggregate"}), ("paused", set())]
)
def test_scores_of_active_and_testing_scorers_are_checked(run: Run, status: str, kinds: set[str]) -> None:
    run.execute(sa.update(monitors).where(monitors.c.type == "score").values(status=status))
    run.execute(sa.update(servers).where(servers.c.id == run.servers[0]).values(score_raw=7.0))
    assert run.kinds() == kinds


def test_window_includes_results_on_its_edge(sqlite_engine: Engine) -> None:
    newest = utc_now().replace(microsecond=0)
    with sqlite_engine.begin() as connection:
        server, monitor = add_server(connection), add_monitor(connection, NAMES[0])
        for seconds in (0, 600, 601):
            add_log_score(connection, server, monitor, newest - timedelta(seconds=seconds))
    with reading(sqlite_engine) as connection:
        [(found, at, results)] = recent_results(connection, timedelta(seconds=600))
    assert (found, at) == (server, newest)
    assert sorted((newest - result.ts).total_seconds() for result in results) == [0, 600]


async def test_assignment_removed_while_reading_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(session: Any, topic_filter: str, echo: str, take: Any, *, timeout: float) -> None:
        assert topic_filter == "/devel/monitors/assignments/+/#"
        for topic, payload in (("a", b"1"), ("b", b"2"), ("a", b""), ("c", b"")):
            take(Incoming(topic, payload, retain=True))

    monkeypatch.setattr(assignments_module, "read_retained", read)
    session: Any = SimpleNamespace(identity=Identity("checker", "checker/1"))
    assert await read_tree(session, TOPICS) == {"b": b"2"}


# ---- command line ----------------------------------------------------------------------------------------------------


def by_hand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["checker", *arguments])
    monkeypatch.delenv("DATABASE_DSN", raising=False)
    monkeypatch.setenv("DEPLOYMENT_MODE", "devel")
    code = main()
    said = capsys.readouterr()
    return code, said.out, said.err


def test_exit_code_shows_whether_there_are_differences(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = sqlite_engine.url.render_as_string(hide_password=False)
    assert by_hand(monkeypatch, capsys, "--database-url", url) == (0, "0 results, 0 differences\n", "")
    with sqlite_engine.begin() as connection:
        server, monitor = add_server(connection), add_monitor(connection, NAMES[0])
        add_pair(connection, server, monitor, score=5.0)
    code, out, err = by_hand(monkeypatch, capsys, "--database-url", url)
    assert (code, err) == (1, "")
    assert (
        out
        == f"score: server {server}, monitor {monitor} has score 5.0, its last row has 0.0\n0 results, 1 differences\n"
    )
    assert by_hand(monkeypatch, capsys, "--database-url", url, "--old")[:2] == (0, "0 results, 0 differences\n")


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ([], 2, "--database-url or DATABASE_DSN: must name"),
        (["--database-url", "oracle://u:secret@h/d"], 2, "database DSN"),
        (["--database-url", "sqlite:////nowhere/at/all/ledger.db"], 1, "database: unable to open database file"),
        (["--env", "staging"], 2, "DEPLOYMENT_MODE=staging"),
    ],
)
def test_invalid_arguments_and_unusable_databases_are_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    named: str,
) -> None:
    found, out, err = by_hand(monkeypatch, capsys, *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("checker: ") and named in err and "secret" not in err


def test_ledger_of_another_version_is_refused(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite_engine.begin() as connection:
        connection.exec_driver_sql("UPDATE `alembic_version` SET `version_num` = '0000'")
    url = sqlite_engine.url.render_as_string(hide_password=False)
    code, _, err = by_hand(monkeypatch, capsys, "--database-url", url)
    assert code == 2
    assert "database: is at version 0000, this program needs " in err


def test_pair_without_rows_differs_only_if_it_has_a_score() -> None:
    assert Replay().compare_pairs({(1, 1): 0.0}) == []
    assert Replay(trusting=True).compare_pairs({(1, 1): 5.0}) == []
    assert len(Replay().compare_pairs({(1, 1): 5.0})) == 1


def test_servers_without_results_in_the_run_are_not_checked(run: Run) -> None:
    with reading(run.engine) as connection:
        before = read_before(connection)
    run.execute(sa.update(servers).where(servers.c.id == run.servers[0]).values(score_raw=7.0))
    assert run.check(attempts=None, before=before).differences == ()
    assert run.kinds(attempts=None) == {"aggregate"}
