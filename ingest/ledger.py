"""The one transaction of an intake: batch ids, log rows and scores are written together, or not at all.

It takes the scoring queue's rows of the servers of new batches, in the order of their ids, before it reads their scores
and whether the batches are still new: nobody else writes results of these servers until it ends, so that scores build
on each other and log rows of a server are committed in the order of their ids. It may run again at any time, since a
remembered batch changes nothing.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from ingest.bulk import BatchRow, add_batches, add_log_rows, move_pairs, read_batches, read_pairs
from ingest.check import known_id, needs_history
from ingest.decode import Submission
from ingest.plan import (
    Known,
    Monitor,
    Pair,
    Plan,
    Remembered,
    make_plan,
    rejections_from_text,
    rejections_to_text,
)
from runtime.database import transaction
from runtime.work_queue import SCORING
from schema.tables import assignment_changes, monitors, servers


def commit(engine: Engine, submissions: Sequence[Submission], now: datetime) -> Plan:
    """Writes ``submissions`` and returns what was written. ``now`` is UTC without a zone.

    Another worker may commit a batch of which no server is known, so that none is held, or a server may be deleted,
    between our look and our write: the violated key then makes us look again.

    Raises:
        DatabaseUnavailable: nothing was committed, or nobody knows; it may be called again.
        sqlalchemy.exc.SQLAlchemyError: the database refused.
    """
    work = partial(_commit, submissions=submissions, now=now)
    return transaction(engine, work, retry_on=(IntegrityError,))


def _commit(connection: Connection, submissions: Sequence[Submission], now: datetime) -> Plan:
    known_monitors = _monitors(connection, {s.name for s in submissions})
    senders = [(s, known_monitors[s.name, s.ipv]) for s in submissions if (s.name, s.ipv) in known_monitors]
    batches = _batches(connection, {(m.id, s.batch.id) for s, m in senders})
    new = [(s, m) for s, m in senders if (m.id, s.batch.id) not in batches]
    asked = sorted({(r.server_id, m.id) for s, m in new for r in s.batch.results if known_id(r.server_id)})
    SCORING.hold_due(connection, {server_id for server_id, _ in asked}, now)
    # Another worker may have committed one of them while we waited for it.
    batches |= _batches(connection, {(m.id, s.batch.id) for s, m in new})
    pairs, addresses = _pairs(connection, asked, {m.id: m for _, m in senders})
    known = Known(
        monitors=known_monitors,
        servers=addresses | _servers(connection, {server_id for server_id, _ in asked} - addresses.keys()),
        pairs=pairs,
        batches=batches,
    )
    plan = make_plan(known, submissions)
    _write(connection, plan, now)
    return plan


def _monitors(connection: Connection, names: Iterable[str]) -> dict[tuple[str, str], Monitor]:
    m = monitors.c
    query = sa.select(m.id, m.tls_name, m.ip_version, m.status)
    rows = connection.execute(query.where(m.tls_name.in_(sorted(names)), m.type == "monitor"))
    return {(row.tls_name, row.ip_version): Monitor(row.id, row.status) for row in rows}


def _servers(connection: Connection, ids: Iterable[int]) -> dict[int, str]:
    if not (wanted := sorted(ids)):
        return {}
    query = sa.select(servers.c.id, servers.c.ip).where(servers.c.id.in_(wanted))
    return {row.id: row.ip for row in connection.execute(query)}


def _pairs(
    connection: Connection, asked: Sequence[tuple[int, int]], by_id: Mapping[int, Monitor]
) -> tuple[dict[tuple[int, int], Pair], dict[int, str]]:
    """The pairs of ``asked`` (server, monitor) that there are, and the addresses of their servers."""
    if not asked:
        return {}, {}
    pairs: dict[tuple[int, int], Pair] = {}
    addresses: dict[int, str] = {}
    for pair_id, server_id, monitor_id, status, score, score_ts, stratum, ip in read_pairs(connection, asked):
        pairs[server_id, monitor_id] = Pair(pair_id, status, score, score_ts, stratum)
        addresses[server_id] = ip
    idle = [key for key, pair in pairs.items() if needs_history(by_id[key[1]].status, pair.status)]
    for key, ended in _last_changes(connection, idle).items():
        pairs[key] = msgspec.structs.replace(pairs[key], ended=ended)
    return pairs, addresses


def _last_changes(connection: Connection, asked: Sequence[tuple[int, int]]) -> dict[tuple[int, int], datetime]:
    if not asked:
        return {}
    c = assignment_changes.c
    query = (
        sa.select(c.server_id, c.monitor_id, sa.func.max(c.changed_on).label("on"))
        .where(sa.tuple_(c.monitor_id, c.server_id).in_([(m, s) for s, m in asked]))
        .group_by(c.server_id, c.monitor_id)
    )
    return {(row.server_id, row.monitor_id): row.on for row in connection.execute(query)}


def _batches(connection: Connection, asked: Collection[tuple[int, str]]) -> dict[tuple[int, str], Remembered]:
    if not asked:
        return {}
    return {
        (monitor_id, batch): Remembered(stored, rejections_from_text(rejected))
        for monitor_id, batch, stored, rejected in read_batches(connection, sorted(asked))
    }


def _write(connection: Connection, plan: Plan, now: datetime) -> None:
    if plan.batches:
        add_batches(connection, _batch_rows(plan), now)
    if plan.log_rows:
        add_log_rows(connection, plan.log_rows)
        move_pairs(connection, sorted((p.id, p.score, p.score_ts, p.stratum) for p in plan.pairs.values()))


def _batch_rows(plan: Plan) -> list[BatchRow]:
    # In the order of their key: two workers with the same batches then wait for, but never deadlock, each other.
    return [
        (monitor_id, batch, remembered.stored, rejections_to_text(remembered.rejected))
        for (monitor_id, batch), remembered in sorted(plan.batches.items(), key=lambda item: item[0])
    ]
