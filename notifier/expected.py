"""Find how long the pool may go without a result: a small pool may measure only every two hours.

A pair is measured once per interval of its status. A pair counts only if it has had its status, and its agent has been
online, for that whole time.
"""

from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.system_settings import Intervals
from schema.messages import LIVE, PairStatus
from schema.tables import assignment_changes, monitor_presence, monitors, server_scores

SLACK: Final = 1.5
"""Intervals of a pair after which its result is in the ledger: half of one for its way, and for one that was lost."""

_MEASURED: Final[tuple[PairStatus, ...]] = ("active", "testing", "candidate")

_M, _P, _S, _C = monitors.c, monitor_presence.c, server_scores.c, assignment_changes.c

_OF_ONLINE: Final = (
    sa.select(sa.literal(1))
    .select_from(
        monitor_presence.join(monitors, _M.tls_name == _P.tls_name).join(server_scores, _S.monitor_id == _M.id)
    )
    .where(_P.online, _M.status.in_(sorted(LIVE)))
    .limit(1)
)


def results_due_within(
    connection: Connection, now: datetime, at_least: timedelta, intervals: Intervals
) -> timedelta | None:
    """Return the time since the last result after which results are missing.

    Args:
        now: naive UTC.
        at_least: the operator's setting.

    Returns:
        ``at_least``, or more if no pair is measured so often; also ``at_least`` if no agent that is online has pairs.
        None if all such pairs, or their agents, are too new to tell.
    """
    for status in sorted(_MEASURED, key=intervals.of):
        within = max(at_least, SLACK * timedelta(seconds=intervals.of(status)))
        if connection.scalar(_settled(status, now - within)) is not None:
            return within
    return at_least if connection.scalar(_OF_ONLINE.where(_S.status.in_(_MEASURED))) is None else None


def _settled(status: PairStatus, since: datetime) -> sa.Select[Any]:
    """Return the query for a pair that has had this status, and whose agent has been online, since then."""
    changed = sa.exists().where(_C.monitor_id == _S.monitor_id, _C.server_id == _S.server_id, _C.changed_on > since)
    return _OF_ONLINE.where(_S.status == status, _P.since <= since, ~changed)
