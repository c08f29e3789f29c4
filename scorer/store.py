"""The scorer's part of the ledger: the latest results of many servers in few queries, and what a score changes.

What is read here may be overtaken before the scores are written: who writes them looks whether it was (see
:func:`scorer.scoring.score_due`).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.engine import Connection

from runtime.db.json_rows import json_rows
from schema.messages import MonitorStatus
from schema.tables import log_scores, monitors, scoring_queue, server_scores, servers
from scorer.model import PairScore, Score, Tier
from scorer.policy import SAME_FOR, Logged

_REVIEW_INDEX: Final = "FORCE INDEX (`log_scores_review`)"
"""It holds all that is asked for, in order of time. Statistics of a growing table sometimes suggest another one, and
then a query reads the log of weeks instead of minutes."""


_ABOUT: Final = 10
"""Seconds within which windows begin at about the same time; a divisor of 60."""


class Given(NamedTuple):
    """A score as ``servers`` and ``server_scores`` hold it."""

    ts: datetime | None
    """Of the server's newest result; None: not scored yet."""
    score: float
    stratum: int | None = None
    """That most of its monitors were told; None: nobody knows."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server as the last scoring left it."""

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
    """Whether any server waits for its score."""
    queue = scoring_queue.c
    return connection.scalar(sa.select(queue.server_id).where(queue.due_on <= now).limit(1)) is not None


def servers_after(server_id: int, limit: int) -> sa.Select[Any]:
    """The ids of up to ``limit`` servers that follow ``server_id``, in order."""
    return sa.select(servers.c.id).where(servers.c.id > server_id).order_by(servers.c.id).limit(limit)


def one_server(server_id: int) -> sa.Select[Any]:
    """The id of that server, if there is one."""
    return sa.select(servers.c.id).where(servers.c.id == server_id)


def scorer_rows(connection: Connection) -> list[ScorerRow]:
    """All scorers that the ledger knows, ours or not, by id."""
    m = monitors.c
    query = sa.select(m.id, m.tls_name, m.status).where(m.type == "score").order_by(m.id)
    return [ScorerRow(*row) for row in connection.execute(query)]


def add_scorer(connection: Connection, name: str, tls_name: str, now: datetime) -> None:
    """Makes the row of a scorer. It has no address and belongs to no protocol."""
    connection.execute(
        sa.insert(monitors).values(
            type="score", hostname=name, tls_name=tls_name, status="active", config="{}", created_on=now
        )
    )


def server_states(
    connection: Connection, server_ids: Collection[int], scorers: Collection[int], until: datetime
) -> list[ServerState]:
    """The servers among ``server_ids`` that have any result until then not written by one of the ``scorers``."""
    asked = {"servers": list(server_ids), "scorers": list(scorers), "until": until}
    return [
        ServerState(server_id, newest_ts, Given(*given))
        for server_id, newest_ts, *given in connection.execute(_STATES, asked)
        if newest_ts is not None
    ]


def tier_results(
    connection: Connection, states: Iterable[ServerState], tier: Tier, scorers: Collection[int], until: datetime
) -> dict[int, list[PairScore]]:
    """The latest result until then of each monitor in ``tier``, of the servers that have any.

    The database picks the latest, since most of the time went into handing over the others.
    """
    begins = {state.id: state.newest - tier.window for state in states}
    results: defaultdict[int, list[PairScore]] = defaultdict(list)
    for begin, server_ids in _together(begins).items():
        asked = {"servers": server_ids, "begin": begin, "until": until}
        of = {"statuses": list(tier.statuses), "scorers": list(scorers)}
        for server_id, *result in connection.execute(_TIER_RESULTS, asked | of):
            latest = PairScore(*result)
            if latest.ts >= begins[server_id]:
                results[server_id].append(latest)
    return dict(results)


def scores_of(connection: Connection, scorer_id: int, server_ids: Collection[int]) -> dict[int, Given]:
    """What a scorer has given to these servers, where it has a row for them."""
    rows = connection.execute(_SCORES, {"scorer": scorer_id, "servers": list(server_ids)})
    return {server_id: Given(*given) for server_id, *given in rows}


def last_logged(
    connection: Connection, scorer_id: int, states: Collection[ServerState], until: datetime
) -> dict[int, Logged]:
    """The scorer's newest log row of each server until then, where there is one that may make the next one no news."""
    logged: dict[int, Logged] = {}
    for begin, server_ids in _together({state.id: state.newest - SAME_FOR for state in states}).items():
        asked = {"servers": server_ids, "begin": begin, "until": until, "scorer": scorer_id}
        rows = connection.execute(_LOGGED, asked)
        logged |= {server_id: Logged(ts, score) for server_id, ts, score in rows}
    return logged


def write_pair_scores(
    connection: Connection,
    scorer_id: int,
    scores: Mapping[int, Given],
    known: Collection[int],
    now: datetime,
) -> None:
    """Writes time and score of these servers to the scorer's rows of ``server_scores``; ``known`` are there already."""
    there = {server_id: score for server_id, score in scores.items() if server_id in known}
    _move(connection, _MOVE_PAIRS_MYSQL, _MOVE_PAIR, there, scorer=scorer_id)
    new = [
        {
            "monitor_id": scorer_id,
            "server_id": s,
            "score_ts": ts,
            "score_raw": raw,
            "stratum": stratum,
            "status": "active",
            "created_on": now,
        }
        for s, (ts, raw, stratum) in sorted(scores.items())
        if s not in known
    ]
    if new:
        connection.execute(_ADD_PAIR_SQLITE if connection.dialect.name == "sqlite" else _ADD_PAIR_MYSQL, new)


def write_server_scores(connection: Connection, scores: Mapping[int, Given]) -> None:
    """Writes time and score of these servers to ``servers``."""
    _move(connection, _MOVE_SERVERS_MYSQL, _MOVE_SERVER, scores)


def write_log(connection: Connection, scorer_id: int, scores: Mapping[int, tuple[datetime, Score]]) -> None:
    """Adds a row to the log for each of these servers."""
    rows = [
        {
            "monitor_id": scorer_id,
            "server_id": server_id,
            "ts": ts,
            "score": score.score,
            "step": score.step,
            "attributes": None if score.from_ls_id is None else _attributes(score.from_ls_id),
        }
        for server_id, (ts, score) in sorted(scores.items())
    ]
    if rows:
        connection.execute(sa.insert(log_scores), rows)


def _attributes(from_ls_id: int) -> str:
    return msgspec.json.encode({"from_ls_id": from_ls_id}).decode()


def _together(begins: Mapping[int, datetime]) -> dict[datetime, list[int]]:
    """Servers whose windows begin at about the same time, by a time that is not after any of these.

    Servers that are scored together were mostly measured together, so there are few such times.
    """
    found: defaultdict[datetime, list[int]] = defaultdict(list)
    for server_id, begin in begins.items():
        found[begin.replace(second=begin.second // _ABOUT * _ABOUT, microsecond=0)].append(server_id)
    return found


def _move(
    connection: Connection,
    on_mysql: sa.TextClause,
    elsewhere: sa.Update,
    scores: Mapping[int, Given],
    **of_pairs: int,
) -> None:
    """Gives servers, or a scorer's pairs with them, new scores, in the order of their ids."""
    if not scores:
        return
    moved = sorted(scores.items())
    if connection.dialect.name == "sqlite":
        names = ("server", "ts", "score", "new_stratum")
        connection.execute(elsewhere, [dict(zip(names, (s, *given), strict=True)) | of_pairs for s, given in moved])
    else:
        text = json_rows((s, *given) for s, given in moved)
        connection.execute(on_mysql, {"moved": text, **of_pairs})


_MOVED: Final = """
    JSON_TABLE(:moved, '$[*]' COLUMNS (
        `server_id` INT UNSIGNED PATH '$[0]' ERROR ON ERROR,
        `ts` DATETIME PATH '$[1]' ERROR ON ERROR,
        `score` DOUBLE PATH '$[2]' ERROR ON ERROR,
        `stratum` INT PATH '$[3]' ERROR ON ERROR)) AS `moved`
"""

_MOVE_SERVERS_MYSQL: Final = sa.text(f"""
    UPDATE {_MOVED} STRAIGHT_JOIN `servers` AS `server` ON `server`.`id` = `moved`.`server_id`
    SET `server`.`score_ts` = `moved`.`ts`, `server`.`score_raw` = `moved`.`score`,
        `server`.`stratum` = `moved`.`stratum`
""")  # noqa: S608  # made of our own text

_MOVE_PAIRS_MYSQL: Final = sa.text(f"""
    UPDATE {_MOVED}
    STRAIGHT_JOIN `server_scores` AS `pair`
        ON `pair`.`server_id` = `moved`.`server_id` AND `pair`.`monitor_id` = :scorer
    SET `pair`.`score_ts` = `moved`.`ts`, `pair`.`score_raw` = `moved`.`score`, `pair`.`stratum` = `moved`.`stratum`
""")  # noqa: S608  # made of our own text

_NEW_SCORE: Final[dict[str, Any]] = {
    "score_ts": sa.bindparam("ts"),
    "score_raw": sa.bindparam("score"),
    "stratum": sa.bindparam("new_stratum"),
}
_MOVE_SERVER: Final = sa.update(servers).where(servers.c.id == sa.bindparam("server")).values(_NEW_SCORE)
_MOVE_PAIR: Final = (
    sa.update(server_scores)
    .where(server_scores.c.server_id == sa.bindparam("server"), server_scores.c.monitor_id == sa.bindparam("scorer"))
    .values(_NEW_SCORE)
)

# Another scorer may have been quicker.
_ADDED_ON_MYSQL: Final = mysql.insert(server_scores)
_ADD_PAIR_MYSQL: Final = _ADDED_ON_MYSQL.on_duplicate_key_update(
    score_ts=_ADDED_ON_MYSQL.inserted.score_ts,
    score_raw=_ADDED_ON_MYSQL.inserted.score_raw,
    stratum=_ADDED_ON_MYSQL.inserted.stratum,
)
_ADDED_ON_SQLITE: Final = sqlite.insert(server_scores)
_ADD_PAIR_SQLITE: Final = _ADDED_ON_SQLITE.on_conflict_do_update(
    index_elements=["server_id", "monitor_id"],
    set_={name: _ADDED_ON_SQLITE.excluded[name] for name in ("score_ts", "score_raw", "stratum")},
)


def _hinted(query: sa.Select[Any], log: sa.FromClause) -> sa.Select[Any]:
    return query.with_hint(log, _REVIEW_INDEX, "mysql").with_hint(log, _REVIEW_INDEX, "mariadb")


def _several(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, expanding=True)


def _states() -> sa.Select[Any]:
    log, s = log_scores.alias("newest"), servers.c
    newest = (
        _hinted(sa.select(log.c.ts), log)
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
        _hinted(sa.select(c.server_id, c.id, c.monitor_id, p.status, c.ts, c.score, c.step, c.rtt, p.stratum), log)
        .add_columns(newest_first.label("place"))
        # In the order as written: from the few rows of the window to their pairs, never the other way round.
        .prefix_with("STRAIGHT_JOIN", dialect="mysql")
        .prefix_with("STRAIGHT_JOIN", dialect="mariadb")
        .join_from(log, pair, sa.and_(p.server_id == c.server_id, p.monitor_id == c.monitor_id))
        .where(p.status.in_(_several("statuses")), c.monitor_id.not_in(_several("scorers")))
        .where(c.server_id.in_(_several("servers")), c.ts.between(sa.bindparam("begin"), sa.bindparam("until")))
        .subquery("seen")
    )
    return sa.select(*(column for column in query.c if column.name != "place")).where(query.c.place == 1)


def _logged() -> sa.Select[Any]:
    log = log_scores.alias("log")
    newest_first = sa.func.row_number().over(partition_by=log.c.server_id, order_by=(log.c.ts.desc(), log.c.id.desc()))
    seen = (
        _hinted(sa.select(log.c.server_id, log.c.ts, log.c.score, newest_first.label("place")), log)
        .where(log.c.monitor_id == sa.bindparam("scorer"))
        .where(log.c.server_id.in_(_several("servers")))
        .where(log.c.ts.between(sa.bindparam("begin"), sa.bindparam("until")))
        .subquery("seen")
    )
    return sa.select(seen.c.server_id, seen.c.ts, seen.c.score).where(seen.c.place == 1)


# Made once: to build a statement anew took a quarter of the scorer's own time.
_STATES: Final = _states()
_TIER_RESULTS: Final = _tier_results()
_pair = server_scores.c
_SCORES: Final = sa.select(_pair.server_id, _pair.score_ts, _pair.score_raw, _pair.stratum).where(
    _pair.monitor_id == sa.bindparam("scorer"), _pair.server_id.in_(_several("servers"))
)
_LOGGED: Final = _logged()
