"""How much each monitor may send, from the pairs it has in the ledger and the pool's intervals."""

from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from ingest.rate_limit import Sender, allowed_rate
from runtime.db.engine import reading
from runtime.db.system_settings import Intervals
from schema.tables import monitors, server_scores

_TOGETHER: Final = 20
"""Monitors of one query; each has some thousand pairs at most."""


def read_rates(engine: Engine, senders: Sequence[Sender], intervals: Intervals) -> dict[Sender, float]:
    """Results a second that each of ``senders`` may send; one that is not in the ledger gets the least.

    Raises:
        sqlalchemy.exc.DBAPIError: the database failed.
    """
    paces = dict.fromkeys(senders, 0.0)
    names = sorted({name for name, _ in senders})
    with reading(engine) as connection:
        for some in _chunks(names):
            for row in connection.execute(_pairs_of(some)):
                sender = (row.tls_name, row.ip_version)
                if sender in paces:
                    paces[sender] += row.pairs / intervals.of(row.status)
    return {sender: allowed_rate(pace) for sender, pace in paces.items()}


def _pairs_of(names: Sequence[str]) -> sa.Select[tuple[str, str, str, int]]:
    m, p = monitors.c, server_scores.c
    return (
        sa.select(m.tls_name, m.ip_version, p.status, sa.func.count().label("pairs"))
        .select_from(monitors.join(server_scores, p.monitor_id == m.id))
        .where(m.tls_name.in_(names), p.status != "paused")
        .group_by(m.tls_name, m.ip_version, p.status)
    )


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _TOGETHER):
        yield names[start : start + _TOGETHER]
