"""The one transaction of a group of batches: batch ids, log rows and scores are written together, or not at all.

It looks at everything first, without a lock. Then it takes the scoring queue's rows of those servers of which a result
is to be stored, in the order of their ids: nobody else writes results of these servers until it ends, so that scores
build on each other and log rows of a server are committed in the order of their ids. Where another was faster than we
since our look, it looks once more. A server of which all results are refused is never held: whoever sends nonsense
about the servers of others does not make these wait. It may run again at any time, since a remembered batch changes
nothing.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from ingest.lookup import Lookup, read_monitors
from ingest.messages import Submission
from ingest.plan import Plan, make_plan, rejections_to_text
from ingest.statements import BatchRow, MovedPair, add_batches, add_log_rows, move_pairs
from runtime.db.engine import transaction
from runtime.db.queue import SCORING
from runtime.db.system_settings import Intervals

_DEFAULT_INTERVALS: Final = Intervals()


def commit(
    engine: Engine, submissions: Sequence[Submission], now: datetime, intervals: Intervals = _DEFAULT_INTERVALS
) -> Plan:
    """Writes ``submissions`` and returns what was written. ``now`` is UTC without a zone.

    Another worker may commit a batch of which no server is known, so that none is held, or a server may be deleted,
    between our look and our write: the violated key then makes us look again.

    Args:
        intervals: the pool's, which results are held to (:mod:`ingest.result_rate`).

    Raises:
        DatabaseUnavailable: nothing was committed, or nobody knows; it may be called again.
        sqlalchemy.exc.SQLAlchemyError: the database refused.
    """
    work = partial(_commit, submissions=submissions, now=now, intervals=intervals)
    return transaction(engine, work, retry_on=(IntegrityError,))


def _commit(connection: Connection, submissions: Sequence[Submission], now: datetime, intervals: Intervals) -> Plan:
    by_name = read_monitors(connection, {s.name for s in submissions})
    look = Lookup(
        connection, [(s, by_name[s.name, s.ipv]) for s in submissions if (s.name, s.ipv) in by_name], intervals
    )
    known = look.first(by_name, now)
    plan = make_plan(known, submissions)
    held = {server_id for server_id, _ in plan.pairs}
    SCORING.hold_due(connection, held, now)
    if not SCORING.only_ours(connection, {server_id: known.stored.get(server_id, 0) for server_id in held}):
        plan = make_plan(look.again(known, held, now), submissions)
    _write(connection, plan, now)
    return plan


def _write(connection: Connection, plan: Plan, now: datetime) -> None:
    if plan.batches:
        add_batches(connection, _batch_rows(plan), now)
    if plan.log_rows:
        add_log_rows(connection, plan.log_rows)
        moved = (MovedPair(pair.id, pair.score, pair.score_ts, pair.stratum) for pair in plan.pairs.values())
        move_pairs(connection, sorted(moved))


def _batch_rows(plan: Plan) -> list[BatchRow]:
    # In the order of their key: two workers with the same batches then wait for, but never deadlock, each other.
    return [
        BatchRow(monitor_id, batch, remembered.stored, rejections_to_text(remembered.rejected))
        for (monitor_id, batch), remembered in sorted(plan.batches.items(), key=lambda item: item[0])
    ]
