"""Recompute every server's score from all recent results, and compare it with the scorer's.

The scorer reads only the rows that one of its tiers needs; here its pure function is given all rows.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.queue import SCORING
from runtime.db.system_settings import Intervals
from schema.tables import log_scores
from scorer.model import Scorer
from scorer.scorers import POOL_SCORER, all_scorers
from testbed.checker.difference import Difference
from testbed.checker.ledger import ServerScore, recent_results, scorer_ids, scores_by, server_scores_given
from testbed.checker.replay import same

_Differing = tuple[int, Difference]
"""A server and the difference in its score."""


def compare_aggregates(
    connection: Connection, intervals: Intervals, of: Collection[int] | None = None
) -> list[Difference]:
    """Compare the scores of these or all servers with their results. The ledger must be at rest.

    A score changes when a result arrives, not when a pair's status changes: without a result since that change, the
    previous score is still right.
    """
    found = _waiting(connection)
    ids = scorer_ids(connection)
    for scorer in all_scorers():
        if scorer.tls_name in ids:
            differing = _compare(connection, scorer, ids[scorer.tls_name], intervals)
            found += [difference for server_id, difference in differing if of is None or server_id in of]
            found += _compare_log(connection, scorer, ids[scorer.tls_name])
    return found


def _waiting(connection: Connection) -> list[Difference]:
    due = SCORING.due
    query = sa.select(SCORING.table.c.server_id, due).where(due.is_not(None)).order_by(due)
    return [
        Difference("waiting", f"server {row.server_id} has been waiting for its score since {row[1]}")
        for row in connection.execute(query)
    ]


def _compare(connection: Connection, scorer: Scorer, scorer_id: int, intervals: Intervals) -> Iterator[_Differing]:
    window = max((tier.window for tier in scorer.tiers(intervals)), default=timedelta(0))
    given = {scorer.name: scores_by(connection, scorer_id)}
    if scorer.name == POOL_SCORER:
        given["servers"] = server_scores_given(connection)
    seen = set()
    for server_id, newest, results in recent_results(connection, window):
        score = scorer.compute(results, intervals)
        if score is None:
            continue
        seen.add(server_id)
        for where, scores in given.items():
            found = scores.get(server_id, (None, 0.0))
            if not _agree(found, (newest, score.score)):
                yield server_id, _difference(server_id, where, found, f"{score.score!r} at {newest}")
    for where, scores in given.items():
        for server_id, (ts, raw) in scores.items():
            if server_id not in seen and ts is not None:
                yield server_id, _difference(server_id, where, (ts, raw), "no score, since it has no result")


def _agree(one: ServerScore, other: ServerScore) -> bool:
    return one[0] == other[0] and same(one[1], other[1])


def _difference(server_id: int, where: str, found: ServerScore, computed: str) -> Difference:
    return Difference(
        "aggregate", f"server {server_id} has {found[1]!r} at {found[0]} in {where}, computed: {computed}"
    )


def _compare_log(connection: Connection, scorer: Scorer, scorer_id: int) -> Sequence[Difference]:
    """Compare a scorer's log rows with the rows that they name as their source."""
    log = log_scores.c
    rows = connection.execute(
        sa.select(log.id, log.server_id, log.score, log.step, log.attributes).where(log.monitor_id == scorer_id)
    ).all()
    sources = {row.id: json.loads(row.attributes or "{}").get("from_ls_id") for row in rows}
    of = _rows(connection, [source for source in sources.values() if source is not None])
    found = []
    for row in rows:
        source = of.get(sources[row.id])
        # The source may have expired.
        if source is not None and (source[0] != row.server_id or not same(source[1], row.score)):
            text = f"log row {row.id} of {scorer.name} says {row.score!r}, the row {sources[row.id]} that it names says"
            found.append(Difference("aggregate", f"{text} {source[1]!r} of server {source[0]}"))
    return found


def _rows(connection: Connection, ids: Sequence[int]) -> dict[int | None, tuple[int, float]]:
    log = log_scores.c
    found: dict[int | None, tuple[int, float]] = {}
    for first in range(0, len(ids), 1_000):
        query = sa.select(log.id, log.server_id, log.score).where(log.id.in_(ids[first : first + 1_000]))
        found |= {row.id: (row.server_id, row.score) for row in connection.execute(query)}
    return found
