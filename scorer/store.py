"""Read the latest results of many servers in few queries, and write scores.

Results may be stored between read and write; :func:`scorer.rounds.score_due` checks this before it writes.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.bulk import BulkDelete, BulkInsert, BulkUpdate, by_index, in_this_order, upsert
from schema.messages import MonitorStatus
from schema.tables import log_scores, monitors, score_traces, scoring_queue, server_scores, servers
from scorer.model import PairScore, Score, Tier
from scorer.policy import SAME_FOR, Logged

_REVIEW_INDEX: Final = "log_scores_review"
"""Index that covers all queries of the log, in order of time."""

_ABOUT: Final = 10
"""Seconds to which the starts of windows are rounded down; a divisor of 60."""


class Given(NamedTuple):
    """A score as ``servers`` and ``server_scores`` hold it."""

    ts: datetime | None
    """Time of the server's newest result; None if it has not been scored yet."""
    score: float
    stratum: int | None = None
    """Most frequent stratum of its monitors; None if unknown."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server with its stored score and its newest result."""

    id: int
    newest: datetime
    """Time of its newest result."""
    given: Given


@dataclass(frozen=True, slots=True)
class ScorerRow:
    """A scorer's row of ``monitors``."""

    id: int
    tls_name: str
    status: MonitorStatus


def is_due(connection: Connection, now: datetime) -> bool:
    """Return whether a server is due."""
    queue = scoring_queue.c
    return connection.scalar(sa.select(queue.server_id).where(queue.due_on <= now).limit(1)) is not None


def servers_after(server_id: int, limit: int) -> sa.Select[Any]:
    """Build the query for the ids of up to ``limit`` servers after ``server_id``, in order."""
    return sa.select(servers.c.id).where(servers.c.id > server_id).order_by(servers.c.id).limit(limit)


def one_server(server_id: int) -> sa.Select[Any]:
    """Build the query for the id of this server, if it exists."""
    return sa.select(servers.c.id).where(servers.c.id == server_id)


def scorer_rows(connection: Connection) -> list[ScorerRow]:
    """Read all scorers in the ledger, including foreign ones, by id."""
    m = monitors.c
    query = sa.select(m.id, m.tls_name, m.status).where(m.type == "score").order_by(m.id)
    return [ScorerRow(*row) for row in connection.execute(query)]


def add_scorer(connection: Connection, name: str, tls_name: str, now: datetime) -> None:
    """Insert the row of a scorer. It has no address and no protocol."""
    connection.execute(
        sa.insert(monitors).values(
            type="score", hostname=name, tls_name=tls_name, status="active", config="{}", created_on=now
        )
    )


def server_states(
    connection: Connection, server_ids: Collection[int], scorers: Collection[int], until: datetime
) -> list[ServerState]:
    """Read the servers of ``server_ids`` that have a result up to ``until`` from other rows than the ``scorers``."""
    parameters = {"servers": list(server_ids), "scorers": list(scorers), "until": until}
    return [
        ServerState(server_id, newest_ts, Given(*given))
        for server_id, newest_ts, *given in connection.execute(_STATES, parameters)
        if newest_ts is not None
    ]


def tier_results(
    connection: Connection, states: Iterable[ServerState], tier: Tier, scorers: Collection[int], until: datetime
) -> dict[int, list[PairScore]]:
    """Read the latest result up to ``until`` of each monitor in ``tier``, by server.

    The database selects the latest, since the transfer of all others took most of the time.
    """
    begins = {state.id: state.newest - tier.window for state in states}
    results: defaultdict[int, list[PairScore]] = defaultdict(list)
    for begin, server_ids in _together(begins).items():
        parameters = {"servers": server_ids, "begin": begin, "until": until}
        of = {"statuses": list(tier.statuses), "scorers": list(scorers)}
        for server_id, *result in connection.execute(_TIER_RESULTS, parameters | of):
            latest = PairScore(*result)
            if latest.ts >= begins[server_id]:
                results[server_id].append(latest)
    return dict(results)


def scores_of(connection: Connection, scorer_id: int, server_ids: Collection[int]) -> dict[int, Given]:
    """Read a scorer's stored scores of these servers, if there are any."""
    rows = connection.execute(_SCORES, {"scorer": scorer_id, "servers": list(server_ids)})
    return {server_id: Given(*given) for server_id, *given in rows}


def last_logged(
    connection: Connection, scorer_id: int, states: Collection[ServerState], until: datetime
) -> dict[int, Logged]:
    """Read the scorer's newest log row of each server up to ``until``, if it may suppress the next one."""
    logged: dict[int, Logged] = {}
    for begin, server_ids in _together({state.id: state.newest - SAME_FOR for state in states}).items():
        parameters = {"servers": server_ids, "begin": begin, "until": until, "scorer": scorer_id}
        rows = connection.execute(_LOGGED, parameters)
        logged |= {server_id: Logged(ts, score) for server_id, ts, score in rows}
    return logged


def write_pair_scores(
    connection: Connection,
    scorer_id: int,
    scores: Mapping[int, Given],
    known: Collection[int],
    now: datetime,
) -> None:
    """Write time and score of these servers to the scorer's rows in ``server_scores``; ``known`` have a row already."""
    rows = [_PairRow(server_id, scorer_id, *given) for server_id, given in sorted(scores.items())]
    _UPDATE_PAIRS.execute(connection, [row for row in rows if row.server_id in known])
    new = [row for row in rows if row.server_id not in known]
    _ADD_PAIRS.execute(connection, new, status="active", created_on=now)


def write_server_scores(connection: Connection, scores: Mapping[int, Given]) -> None:
    """Write time and score of these servers to ``servers``."""
    _UPDATE_SERVERS.execute(connection, (_ServerRow(id_, *given) for id_, given in sorted(scores.items())))


def write_log(connection: Connection, scorer_id: int, scores: Mapping[int, tuple[datetime, Score]]) -> None:
    """Insert a log row for each of these servers."""
    rows = (_log_row(server_id, ts, score) for server_id, (ts, score) in sorted(scores.items()))
    _ADD_LOG_ROWS.execute(connection, rows, monitor_id=scorer_id)


def pop_traces(connection: Connection, server_ids: Collection[int]) -> dict[int, str]:
    """Remove and return the contexts of traces of these servers, which are locked."""
    rows = connection.execute(_TRACES, {"servers": list(server_ids)})
    traces = {row.server_id: row.trace_context for row in rows}
    _REMOVE_TRACES.execute(connection, ((server_id,) for server_id in sorted(traces)))
    return traces


class _ServerRow(NamedTuple):
    id: int
    score_ts: datetime | None
    score_raw: float
    stratum: int | None


class _PairRow(NamedTuple):
    server_id: int
    monitor_id: int
    score_ts: datetime | None
    score_raw: float
    stratum: int | None


class _LogRow(NamedTuple):
    server_id: int
    ts: datetime
    score: float
    step: float
    attributes: str | None


def _log_row(server_id: int, ts: datetime, score: Score) -> _LogRow:
    attributes = None if score.from_ls_id is None else _attributes(score.from_ls_id)
    return _LogRow(server_id, ts, score.score, score.step, attributes)


def _attributes(from_ls_id: int) -> str:
    return msgspec.json.encode({"from_ls_id": from_ls_id}).decode()


def _together(begins: Mapping[int, datetime]) -> dict[datetime, list[int]]:
    """Group servers by the start of their windows, rounded down.

    Servers that are scored together were mostly measured at about the same time, so there are few groups.
    """
    found: defaultdict[datetime, list[int]] = defaultdict(list)
    for server_id, begin in begins.items():
        found[begin.replace(second=begin.second // _ABOUT * _ABOUT, microsecond=0)].append(server_id)
    return found


_UPDATE_SERVERS: Final = BulkUpdate(servers, _ServerRow, key=["id"])
_UPDATE_PAIRS: Final = BulkUpdate(server_scores, _PairRow, key=["server_id", "monitor_id"])
# Another worker may have inserted them meanwhile.
_ADD_PAIRS: Final = upsert(
    server_scores,
    _PairRow,
    common=["status", "created_on"],
    key=["server_id", "monitor_id"],
    update=["score_ts", "score_raw", "stratum"],
)
_ADD_LOG_ROWS: Final = BulkInsert(log_scores, _LogRow, common=["monitor_id"])


def _several(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, expanding=True)


def _states() -> sa.Select[Any]:
    log, s = log_scores.alias("newest"), servers.c
    newest = (
        by_index(sa.select(log.c.ts), log, _REVIEW_INDEX)
        .where(log.c.server_id == s.id, log.c.monitor_id.not_in(_several("scorers")))
        .where(log.c.ts <= sa.bindparam("until"))
        .order_by(log.c.ts.desc())
        .limit(1)
        .scalar_subquery()
    )
    given = (s.score_ts, s.score_raw, s.stratum)
    return sa.select(s.id, newest.label("newest"), *given).where(s.id.in_(_several("servers")))


def _tier_results() -> sa.Select[Any]:
    log, pair = log_scores.alias("log"), server_scores.alias("pair")
    c, p = log.c, pair.c
    newest_first = sa.func.row_number().over(
        partition_by=(c.server_id, c.monitor_id), order_by=(c.ts.desc(), c.id.desc())
    )
    query = (
        by_index(
            sa.select(c.server_id, c.id, c.monitor_id, p.status, c.ts, c.score, c.step, c.rtt, p.stratum),
            log,
            _REVIEW_INDEX,
        )
        .add_columns(newest_first.label("place"))
        .join_from(log, pair, sa.and_(p.server_id == c.server_id, p.monitor_id == c.monitor_id))
        .where(p.status.in_(_several("statuses")), c.monitor_id.not_in(_several("scorers")))
        .where(c.server_id.in_(_several("servers")), c.ts.between(sa.bindparam("begin"), sa.bindparam("until")))
    )
    # From the few rows of the window to their pairs, never in the other direction.
    seen = in_this_order(query).subquery("seen")
    return sa.select(*(column for column in seen.c if column.name != "place")).where(seen.c.place == 1)


def _logged() -> sa.Select[Any]:
    log = log_scores.alias("log")
    newest_first = sa.func.row_number().over(partition_by=log.c.server_id, order_by=(log.c.ts.desc(), log.c.id.desc()))
    seen = (
        by_index(sa.select(log.c.server_id, log.c.ts, log.c.score, newest_first.label("place")), log, _REVIEW_INDEX)
        .where(log.c.monitor_id == sa.bindparam("scorer"))
        .where(log.c.server_id.in_(_several("servers")))
        .where(log.c.ts.between(sa.bindparam("begin"), sa.bindparam("until")))
        .subquery("seen")
    )
    return sa.select(seen.c.server_id, seen.c.ts, seen.c.score).where(seen.c.place == 1)


# Built once, since building them for every round took a quarter of the scorer's own time.
_STATES: Final = _states()
_TIER_RESULTS: Final = _tier_results()
_pair = server_scores.c
_SCORES: Final = sa.select(_pair.server_id, _pair.score_ts, _pair.score_raw, _pair.stratum).where(
    _pair.monitor_id == sa.bindparam("scorer"), _pair.server_id.in_(_several("servers"))
)
_LOGGED: Final = _logged()
_trace = score_traces.c
_TRACES: Final = sa.select(_trace.server_id, _trace.trace_context).where(_trace.server_id.in_(_several("servers")))
_REMOVE_TRACES: Final = BulkDelete(score_traces)
