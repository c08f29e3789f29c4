"""Write a group of batches in one transaction: batch ids, log rows and scores together, or nothing.

The transaction first reads everything without row locks. Then it locks the rows of ``scoring_queue`` of those servers
whose results it stores, in the order of their ids. No other process writes results of these servers until the commit,
so scores build on each other, and log rows of a server are committed in the order of their ids. If the version counters
show that another worker has stored results since the first read (optimistic locking), it reads again. A server whose
results are all rejected is never locked, so that invalid results do not delay others. The transaction is idempotent,
since a stored batch changes nothing.
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
from ingest.store import BatchRow, MovedPair, add_batches, add_log_rows, move_pairs
from ingest.tracing import keep_traces
from runtime.db.engine import transaction
from runtime.db.queue import SCORING
from runtime.db.system_settings import Intervals

_DEFAULT_INTERVALS: Final = Intervals()


def commit(
    engine: Engine, submissions: Sequence[Submission], now: datetime, intervals: Intervals = _DEFAULT_INTERVALS
) -> Plan:
    """Write ``submissions`` and return the plan that was written. ``now`` is naive UTC.

    Between read and write, another worker may commit the same batch without a known server, so without a row lock, or a
    server may be deleted. The transaction is then retried after the violation of a key.

    Args:
        intervals: the pool's intervals, for the rate limit of pairs (:mod:`ingest.pair_rate_limit`).

    Raises:
        DatabaseUnavailable: nothing was committed, or the outcome is unknown; the call may be retried.
        sqlalchemy.exc.SQLAlchemyError: the database refused the statement.
    """
    work = partial(_commit, submissions=submissions, now=now, intervals=intervals)
    return transaction(engine, work, retry_on=(IntegrityError,))


def _commit(connection: Connection, submissions: Sequence[Submission], now: datetime, intervals: Intervals) -> Plan:
    by_name = read_monitors(connection, {s.name for s in submissions})
    lookup = Lookup(
        connection, [(s, by_name[s.name, s.ipv]) for s in submissions if (s.name, s.ipv) in by_name], intervals
    )
    known = lookup.first(by_name, now)
    plan = make_plan(known, submissions)
    held = {server_id for server_id, _ in plan.pairs}
    SCORING.hold_due(connection, held, now)
    if not SCORING.only_ours(connection, {server_id: known.stored.get(server_id, 0) for server_id in held}):
        plan = make_plan(lookup.again(known, held, now), submissions)
    _write(connection, plan, now)
    return plan


def _write(connection: Connection, plan: Plan, now: datetime) -> None:
    if plan.batches:
        add_batches(connection, _batch_rows(plan), now)
    if plan.log_rows:
        add_log_rows(connection, plan.log_rows)
        moved = (MovedPair(pair.id, pair.score, pair.score_ts, pair.stratum) for pair in plan.pairs.values())
        move_pairs(connection, sorted(moved))
        keep_traces(connection, plan, now)


def _batch_rows(plan: Plan) -> list[BatchRow]:
    # In the order of their key, so that two workers with the same batches do not deadlock.
    return [
        BatchRow(monitor_id, batch, remembered.stored, rejections_to_text(remembered.rejected))
        for (monitor_id, batch), remembered in sorted(plan.batches.items(), key=lambda item: item[0])
    ]
