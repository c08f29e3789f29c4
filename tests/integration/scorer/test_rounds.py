"""Test the scorer on real databases: what it reads and writes, and that repetition changes nothing."""

import json
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from threading import Barrier, Thread
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from runtime.db.engine import open_database
from runtime.db.queue import REVIEWS, SCORING
from runtime.db.system_settings import Intervals
from schema.messages import PairStatus
from schema.tables import (
    log_scores,
    metadata,
    monitors,
    score_traces,
    scoring_queue,
    server_scores,
    servers,
    servers_monitor_review,
)
from scorer import store
from scorer.model import PairScore
from scorer.rounds import Scored, score_due
from scorer.scorers import all_scorers
from scorer.scorers.recentmedian import SCORER
from scorer.worker import add_missing_scorers, heal
from testbed.fixtures.world import add_log_score, add_monitor, add_pair, add_scorer, add_server, monitor_name

NOW = datetime(2026, 1, 2, 12, 0, 0)
INTERVALS = Intervals()
MINUTE = timedelta(minutes=1)


def score_all(engine: Engine, now: datetime = NOW, limit: int = 100) -> Scored:
    return score_due(engine, all_scorers(), INTERVALS, now, limit)


def make_due(connection: Connection, *server_ids: int) -> None:
    SCORING.add(connection, server_ids, NOW)
    SCORING.make_due(connection, server_ids, NOW)


def watched_server(
    connection: Connection, *scores: float, status: PairStatus = "active", due: bool = True
) -> tuple[int, list[int]]:
    """Add a server with one new monitor and result for each score; return its id and those of the results."""
    server = add_server(connection)
    results = []
    for place, score in enumerate(scores):
        monitor = add_monitor(connection, monitor_name(f"m{server}-{place}"))
        add_pair(connection, server, monitor, status)
        results.append(add_log_score(connection, server, monitor, NOW - place * MINUTE, score=score, step=-1.0))
    if due:
        make_due(connection, server)
    return server, results


def rows(engine: Engine, table: sa.Table, *where: Any) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.select(table).where(*where)).mappings()]


def everything(engine: Engine) -> dict[str, Any]:
    return {table.name: sorted(map(str, rows(engine, table))) for table in metadata.sorted_tables}


@pytest.fixture
def recentmedian(engine: Engine) -> int:
    """Return the id of the pool's scorer."""
    add_missing_scorers(engine, all_scorers())
    return int(rows(engine, monitors, monitors.c.tls_name == SCORER.tls_name)[0]["id"])


# ---- written scores ------------------------------------------------------------------------------------------------


def test_a_score_is_written_to_the_pair_the_server_and_the_log(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        server, results = watched_server(connection, 12.5, 20.0, -4.0)
    scored = score_all(engine)
    assert (scored.claimed, [(s.server_id, s.ts, s.score) for s in scored.scores]) == (1, [(server, NOW, 12.5)])
    [pair] = rows(engine, server_scores, server_scores.c.monitor_id == recentmedian)
    assert (pair["server_id"], pair["score_ts"], pair["score_raw"], pair["status"]) == (server, NOW, 12.5, "active")
    [found] = rows(engine, servers)
    assert (found["score_ts"], found["score_raw"]) == (NOW, 12.5)
    [logged] = rows(engine, log_scores, log_scores.c.monitor_id == recentmedian)
    assert (logged["server_id"], logged["ts"], logged["score"], logged["step"]) == (server, NOW, 12.5, -1.0)
    assert (logged["offset"], logged["rtt"]) == (None, None)
    assert json.loads(logged["attributes"]) == {"from_ls_id": results[0]}
    assert rows(engine, scoring_queue)[0]["due_on"] is None


def test_results_from_the_future_are_ignored_until_their_time(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        server, results = watched_server(connection, 12.5, 20.0, -4.0)
        monitor = add_monitor(connection, monitor_name("ahead"))
        add_pair(connection, server, monitor)
        add_log_score(connection, server, monitor, NOW + 120 * MINUTE, score=-80.0, step=-4.0)
        add_log_score(connection, server, recentmedian, NOW + 119 * MINUTE, score=-80.0, step=-4.0)
        future = {"score_ts": NOW + 120 * MINUTE, "score_raw": -80.0}
        connection.execute(sa.update(servers).values(future))
        scorers_pair = {"monitor_id": recentmedian, "server_id": server, "status": "active", "created_on": NOW}
        connection.execute(sa.insert(server_scores).values(scorers_pair | future))
    assert [(s.ts, s.score) for s in score_all(engine).scores] == [(NOW, 12.5)]
    [found] = rows(engine, servers)
    assert (found["score_ts"], found["score_raw"]) == (NOW, 12.5), "a time of the future goes back"
    [pair] = rows(engine, server_scores, server_scores.c.monitor_id == recentmedian)
    assert (pair["score_ts"], pair["score_raw"]) == (NOW, 12.5)
    [logged] = rows(engine, log_scores, log_scores.c.monitor_id == recentmedian, log_scores.c.ts <= NOW)
    assert json.loads(logged["attributes"]) == {"from_ls_id": results[0]}, "and the score is news"
    with engine.begin() as connection:
        make_due(connection, server)
    assert [s.ts for s in score_all(engine, NOW + 121 * MINUTE).scores] == [NOW + 120 * MINUTE]


@pytest.mark.parametrize(("ahead", "counts"), [(0, True), (60, True), (90, True), (91, False)])
def test_result_within_the_tolerance_of_ingest_counts_immediately(
    engine: Engine, recentmedian: int, ahead: int, counts: bool
) -> None:
    now = NOW - timedelta(seconds=ahead)
    with engine.begin() as connection:
        watched_server(connection, 12.5)
        connection.execute(sa.update(scoring_queue).values(due_on=now))
    assert [s.ts for s in score_all(engine, now).scores] == ([NOW] if counts else [])


def test_server_is_scored_when_it_is_due_and_not_before(engine: Engine, recentmedian: int) -> None:
    soon = NOW + timedelta(seconds=1)
    with engine.begin() as connection:
        server, _ = watched_server(connection, 12.5)
        connection.execute(sa.update(scoring_queue).values(due_on=soon))
    assert score_all(engine, NOW).scores == ()
    assert [score.server_id for score in score_all(engine, soon).scores] == [server]


def test_server_scheduled_too_late_by_a_wrong_clock_is_due_now(engine: Engine) -> None:
    with engine.begin() as connection:
        soon, later, idle = (add_server(connection) for _ in range(3))
        SCORING.add(connection, [idle], None)
        SCORING.add(connection, [soon], NOW + timedelta(seconds=29))
        SCORING.add(connection, [later], NOW + timedelta(hours=2))
    assert heal(engine, NOW) == 1
    due = {row["server_id"]: row["due_on"] for row in rows(engine, scoring_queue)}
    assert due == {soon: NOW + timedelta(seconds=29), later: NOW, idle: None}
    assert heal(engine, NOW) == 0


def strata(engine: Engine, scorer: int) -> tuple[int | None, int | None]:
    [server], [pair] = rows(engine, servers), rows(engine, server_scores, server_scores.c.monitor_id == scorer)
    return server["stratum"], pair["stratum"]


def test_server_has_the_stratum_reported_by_most_monitors(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        server, _ = watched_server(connection, 12.5, 20.0, -4.0)

    def told(*given: int | None) -> tuple[int | None, int | None]:
        with engine.begin() as connection:
            pairs = server_scores.c
            of_monitors = sa.select(pairs.id).where(pairs.monitor_id != recentmedian).order_by(pairs.id)
            for pair, stratum in zip(connection.scalars(of_monitors).all(), given, strict=True):
                connection.execute(sa.update(server_scores).where(pairs.id == pair).values(stratum=stratum))
            make_due(connection, server)
        assert score_all(engine).claimed == 1
        return strata(engine, recentmedian)

    assert told(None, None, None) == (None, None)
    assert told(2, 1, 2) == (2, 2)
    assert told(3, 2, 1) == (1, 1), "of several the lowest"
    assert told(None, 4, None) == (4, 4)
    assert told(None, None, None) == (4, 4), "what nobody knows any more stays"


def test_server_has_a_stratum_from_its_first_score_on(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        watched_server(connection, 12.5)
        connection.execute(sa.update(server_scores).values(stratum=2))
    assert score_all(engine).claimed == 1
    assert strata(engine, recentmedian) == (2, 2)


def test_computing_again_changes_nothing(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        ids = [watched_server(connection, *scores)[0] for scores in [(20, 20, 20), (3,), (-5, 8), (9.5, 8, 7, 6)]]
    score_all(engine)
    before = everything(engine)
    with engine.begin() as connection:
        make_due(connection, *ids)
    assert score_all(engine, NOW + 60 * MINUTE).claimed == 4
    assert everything(engine) == before


def test_round_scores_at_most_its_limit_and_further_rounds_the_rest(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        for _ in range(5):
            watched_server(connection, 20)
    assert [score_all(engine, limit=2).claimed for _ in range(4)] == [2, 2, 1, 0]
    assert [row["score_raw"] for row in rows(engine, servers)] == [20.0] * 5


def test_round_scores_more_servers_than_fit_into_one_statement(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        expected = {watched_server(connection, score / 10, due=False)[0]: score / 10 for score in range(450)}
        make_due(connection, *expected)
    assert score_all(engine, limit=1_000).claimed == 450
    assert {row["id"]: row["score_raw"] for row in rows(engine, servers)} == expected
    with engine.begin() as connection:
        connection.execute(sa.update(log_scores).where(log_scores.c.monitor_id != recentmedian).values(score=-1.5))
        make_due(connection, *expected)
    score_all(engine, limit=1_000)
    assert {row["score_raw"] for row in rows(engine, server_scores, server_scores.c.monitor_id == recentmedian)} == {
        -1.5
    }
    assert {row["score_raw"] for row in rows(engine, servers)} == {-1.5}


def test_server_without_usable_results_is_unchanged_and_no_longer_due(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        watched_server(connection, 20, status="paused")
        make_due(connection, add_server(connection, score=3.5))
    scored = score_all(engine)
    assert (scored.claimed, scored.scores) == (2, ())
    assert [(row["score_raw"], row["score_ts"]) for row in rows(engine, servers)] == [(0.0, None), (3.5, None)]
    assert all(row["due_on"] is None for row in rows(engine, scoring_queue)), "it is not tried again for ever"


def test_the_time_of_a_score_never_decreases(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        server, _ = watched_server(connection, 20)
    score_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.update(log_scores).values(ts=NOW - 60 * MINUTE, score=7.0))
        connection.execute(sa.delete(log_scores).where(log_scores.c.monitor_id == recentmedian))
        make_due(connection, server)
    score_all(engine)
    assert [(row["score_raw"], row["score_ts"]) for row in rows(engine, servers)] == [(7.0, NOW)]


# ---- results that count --------------------------------------------------------------------------------------------


def test_rows_of_other_scorers_are_not_results(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        server, _ = watched_server(connection, 12.0)
        every = add_scorer(connection, "every.scores.ntp.dev")
        add_pair(connection, server, every)
        add_log_score(connection, server, every, NOW + 90 * MINUTE, score=-50)
    score_all(engine)
    assert [(row["score_raw"], row["score_ts"]) for row in rows(engine, servers)] == [(12.0, NOW)]


def test_rows_without_a_monitor_are_not_results(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        server, _ = watched_server(connection, 12.0)
        connection.execute(sa.insert(log_scores).values(server_id=server, ts=NOW + 90 * MINUTE, score=-50))
    score_all(engine)
    assert rows(engine, servers)[0]["score_ts"] == NOW


@pytest.mark.parametrize("status", ["paused", "deleted"])
def test_paused_or_deleted_scorer_computes_nothing(engine: Engine, recentmedian: int, status: str) -> None:
    with engine.begin() as connection:
        watched_server(connection, 12.0)
        connection.execute(sa.update(monitors).where(monitors.c.id == recentmedian).values(status=status))
    assert score_all(engine).scores == ()
    assert rows(engine, servers)[0]["score_raw"] == 0.0


# ---- the log -------------------------------------------------------------------------------------------------------


def test_score_is_always_written_but_logged_only_if_it_is_news(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        server, _ = watched_server(connection, 10.0)
        [monitor] = connection.scalars(sa.select(server_scores.c.monitor_id))
    score_all(engine)
    course = [(1, 10.0, False), (2, 10.4, False), (3, 11.0, True), (7, 11.2, False), (8, 11.3, True), (22, 11.3, False)]
    logged = [(NOW, 10.0)]
    for minute, score, news in [*course, (23, 11.3, True)]:
        ts = NOW + minute * MINUTE
        with engine.begin() as connection:
            add_log_score(connection, server, monitor, ts, score=score)
            make_due(connection, server)
        assert score_all(engine, ts).logged == news, f"minute {minute}"
        assert [(row["score_ts"], row["score_raw"]) for row in rows(engine, servers)] == [(ts, score)]
        logged += [(ts, score)] if news else []
    written = rows(engine, log_scores, log_scores.c.monitor_id == recentmedian)
    assert [(row["ts"], row["score"]) for row in written] == logged


def test_result_stored_during_a_round_is_not_missed(
    engine: Engine, recentmedian: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        server, _ = watched_server(connection, 10.0)
        [monitor] = connection.scalars(sa.select(server_scores.c.monitor_id))
    read = store.scorer_rows

    def overtaken(connection: Connection) -> list[store.ScorerRow]:
        with engine.begin() as other:
            SCORING.hold_due(other, [server], NOW)
            add_log_score(other, server, monitor, NOW + MINUTE, score=12.0)
        return read(connection)

    with monkeypatch.context() as patched:
        patched.setattr(store, "scorer_rows", overtaken)
        scored = score_all(engine)
    assert (scored.found, scored.claimed, scored.scores) == (1, 0, ())
    assert [row["score_ts"] for row in rows(engine, servers)] == [None]
    assert score_all(engine).claimed == 1
    assert [(row["score_ts"], row["score_raw"]) for row in rows(engine, servers)] == [(NOW + MINUTE, 12.0)]


# ---- falling scores ------------------------------------------------------------------------------------------------


def test_falling_score_makes_the_server_due_for_review_immediately(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        courses = {(20.0, 19.0): True, (20.0, 19.5): False, (10.2, 9.9): True, (5.0, 4.5): False, (5.0, 20.0): False}
        expected: dict[int, bool] = {}
        later: dict[int, float] = {}
        for (before, after), alarming in courses.items():
            server, _ = watched_server(connection, before)
            expected[server], later[server] = alarming, after
        REVIEWS.add(connection, list(expected)[1:], NOW + 20 * MINUTE)  # the first server has never been reviewed
    first = score_all(engine)
    assert first.alarming == (), "a first score is no fall"
    with engine.begin() as connection:
        for server, score in later.items():
            connection.execute(sa.update(log_scores).where(log_scores.c.server_id == server).values(score=score))
        make_due(connection, *expected)
    scored = score_all(engine)
    assert set(scored.alarming) == {server for server, alarming in expected.items() if alarming}
    due = {row["server_id"] for row in rows(engine, servers_monitor_review) if row["next_review"] == NOW}
    assert due == set(scored.alarming)


def test_first_score_of_a_pair_is_not_a_fall(engine: Engine, recentmedian: int) -> None:
    with engine.begin() as connection:
        server, _ = watched_server(connection, -5.0)
        add_pair(connection, server, recentmedian, "candidate")
    assert score_all(engine).alarming == ()
    [pair] = rows(engine, server_scores, server_scores.c.monitor_id == recentmedian)
    assert (pair["score_raw"], pair["score_ts"], pair["status"]) == (-5.0, NOW, "candidate")


# ---- concurrent workers --------------------------------------------------------------------------------------------


def test_concurrent_scorers_never_score_the_same_server(server_engine: Engine) -> None:
    add_missing_scorers(server_engine, all_scorers())
    with server_engine.begin() as connection:
        ids = {watched_server(connection, 20.0, due=False)[0] for _ in range(120)}
        make_due(connection, *ids)
    start = Barrier(3)
    taken: list[list[int]] = [[], [], []]

    def work(mine: list[int]) -> None:
        engine = open_database(server_engine.url)
        start.wait()
        while (scored := score_all(engine, limit=7)).found:
            mine += [score.server_id for score in scored.scores]
        engine.dispose()

    _together([Thread(target=work, args=(mine,)) for mine in taken])
    assert sorted(server for mine in taken for server in mine) == sorted(ids), "every server once"
    assert len(rows(server_engine, server_scores)) == 240
    assert len(rows(server_engine, log_scores)) == 240


def test_the_rows_of_the_scorers_are_created_once(engine: Engine) -> None:
    for _ in range(2):
        add_missing_scorers(engine, all_scorers())
    [row] = rows(engine, monitors)
    assert (row["type"], row["hostname"], row["tls_name"]) == ("score", "recentmedian", "recentmedian.scores.ntp.dev")
    assert (row["ip"], row["ip_version"], row["status"]) == (None, None, "active")


def test_workers_that_start_together_create_the_rows_of_the_scorers_once(server_engine: Engine) -> None:
    start = Barrier(4)

    def work() -> None:
        engine = open_database(server_engine.url)
        engine.connect().close()  # connect first, so that all start at the same time
        start.wait()
        add_missing_scorers(engine, all_scorers())
        engine.dispose()

    _together([Thread(target=work) for _ in range(4)])
    assert len(rows(server_engine, monitors)) == 1


def _together(threads: Sequence[Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()


# ---- comparison with a recomputation -------------------------------------------------------------------------------

STATUSES: Sequence[PairStatus | None] = ("active", "active", "testing", "candidate", "paused", None)


def random_ledger(connection: Connection, random: random.Random) -> None:
    """Add servers with random pairs and results of the last hours, some in the same second."""
    every = add_scorer(connection, "every.scores.ntp.dev")
    all_monitors = [add_monitor(connection, monitor_name(f"r{n}")) for n in range(10)]
    all_servers = [add_server(connection) for _ in range(40)]
    for server in all_servers:
        newest = NOW - timedelta(seconds=random.choice([0, 0, 1, 40, 5_000]))
        kinds = random.choices(STATUSES, k=len(all_monitors)) if random.random() < 0.7 else ["candidate", None]
        for monitor, status in zip(all_monitors, kinds, strict=False):
            if status is not None:
                add_pair(connection, server, monitor, status)
            for _ in range(random.choice([0, 1, 3])):
                age = random.choice([0, 1, 600, 1_188, 1_189, 5_940, 5_941, 15_840, 15_841, random.randrange(20_000)])
                add_log_score(
                    connection,
                    server,
                    monitor,
                    newest - timedelta(seconds=age),
                    score=random.choice([-100.0, 9.5, 19.5, random.uniform(-100, 20)]),
                    rtt=random.choice([None, 10_000, 20_000]),
                )
        add_log_score(connection, server, every, newest + MINUTE, score=-99)
    make_due(connection, *all_servers)


def brute_force(engine: Engine) -> dict[int, int | None]:
    """Return the log row from which each server's score must be taken, computed from all rows."""
    with engine.connect() as connection:
        pairs = {(row.server_id, row.monitor_id): row.status for row in connection.execute(sa.select(server_scores))}
        scorers = set(connection.scalars(sa.select(monitors.c.id).where(monitors.c.type == "score")))
        results: dict[int, list[PairScore]] = {}
        for row in connection.execute(sa.select(log_scores)):
            if row.monitor_id not in scorers:
                status = pairs.get((row.server_id, row.monitor_id))
                results.setdefault(row.server_id, []).append(
                    PairScore(row.id, row.monitor_id, status, row.ts, row.score, row.step, row.rtt)
                )
    scores = {server: SCORER.compute(of_server, INTERVALS) for server, of_server in results.items()}
    return {server: score.from_ls_id for server, score in scores.items() if score is not None}


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_a_recomputation_from_all_rows(engine: Engine, recentmedian: int, seed: int) -> None:
    with engine.begin() as connection:
        random_ledger(connection, random.Random(seed))
    expected = brute_force(engine)
    assert len(expected) > 20, "the random ledger must hold something to score"
    while score_all(engine, limit=16).claimed:
        pass
    logged = rows(engine, log_scores, log_scores.c.monitor_id == recentmedian)
    assert {row["server_id"]: json.loads(row["attributes"])["from_ls_id"] for row in logged} == expected
    scores = {row["id"]: row["score"] for row in rows(engine, log_scores)}
    given = {row["id"]: row["score_raw"] for row in rows(engine, servers) if row["id"] in expected}
    assert given == {server: scores[source] for server, source in expected.items()}


def test_traces_of_scored_servers_are_taken_once(engine: Engine) -> None:
    context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with engine.begin() as connection:
        add_scorer(connection)
        first, _ = watched_server(connection, 12.0)
        other, _ = watched_server(connection, 12.0, due=False)
        for server_id in (first, other):
            row = {"server_id": server_id, "trace_context": context, "stored_on": NOW}
            connection.execute(sa.insert(score_traces), row)
    assert score_all(engine).traces == {}, "without a collector, they are not read"
    with engine.begin() as connection:
        make_due(connection, first)
    scored = score_due(engine, all_scorers(), INTERVALS, NOW, 100, traced=True)
    assert scored.traces == {first: context}
    with engine.connect() as connection:
        assert list(connection.scalars(sa.select(score_traces.c.server_id))) == [other]
