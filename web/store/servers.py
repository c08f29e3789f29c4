"""Find servers: by id, address or name, and counted by score."""

from collections.abc import Sequence
from datetime import date
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from schema.tables import servers
from scorer.policy import HANDED_OUT_ABOVE
from web.addresses import Asked
from web.model import Server, is_hidden

MOST_OF_ONE_NAME: Final = 50
"""Servers of one name that are shown."""

_S: Final = servers.c
_COLUMNS: Final = (
    *(_S.id, _S.ip, _S.ip_version, _S.hostname, _S.in_pool, _S.netspeed, _S.score_raw, _S.score_ts),
    *(_S.created_on, _S.deletion_on, _S.stratum),
)
BY_ID: Final = sa.select(*_COLUMNS).where(_S.id == sa.bindparam("id"))
BY_IP: Final = sa.select(*_COLUMNS).where(_S.ip == sa.bindparam("ip"))
BY_NAME: Final = (
    sa.select(*_COLUMNS).where(_S.hostname == sa.bindparam("hostname")).order_by(_S.id).limit(MOST_OF_ONE_NAME)
)
"""Reads the whole table, of a few thousand rows; the pool's table has no index of names."""


def find_server(connection: Connection, asked: Asked, today: date) -> Server | None:
    """Return the server with this id or address; None if there is none, or it is no longer shown."""
    if asked.id is not None:
        row = connection.execute(BY_ID, {"id": asked.id}).one_or_none()
    elif asked.ip is not None:
        row = connection.execute(BY_IP, {"ip": asked.ip}).one_or_none()
    else:
        return None
    return None if row is None or is_hidden(row.deletion_on, today) else _server(row)


def servers_called(connection: Connection, hostname: str, today: date) -> list[Server]:
    """Return the servers of a name, by id."""
    rows = connection.execute(BY_NAME, {"hostname": hostname})
    return [_server(row) for row in rows if not is_hidden(row.deletion_on, today)]


def _server(row: Any) -> Server:
    return Server(
        id=row.id,
        ip=row.ip,
        ip_version=row.ip_version,
        hostname=row.hostname or None,
        in_pool=bool(row.in_pool),
        netspeed=row.netspeed,
        score=float(row.score_raw),
        score_ts=row.score_ts,
        created_on=row.created_on,
        deletion_on=row.deletion_on,
        stratum=row.stratum,
    )


BANDS: Final[Sequence[tuple[str, float, float]]] = (
    ("handed_out", HANDED_OUT_ABOVE, float("inf")),
    ("low", 0.0, HANDED_OUT_ABOVE),
    ("negative", float("-inf"), 0.0),
)
"""Ranges of scores: name, above, up to."""


def count_by_score(connection: Connection, today: date) -> dict[str, int]:
    """Return the number of servers in the pool in each of :data:`BANDS`, and of all. Reads the whole table."""
    counts = [sa.func.count(sa.case((_within(above, up_to), 1))).label(name) for name, above, up_to in BANDS]
    query = sa.select(*counts, sa.func.count().label("all")).where(
        _S.in_pool == 1, sa.or_(_S.deletion_on.is_(None), _S.deletion_on >= today)
    )
    return dict(connection.execute(query).mappings().one())


def _within(above: float, up_to: float) -> sa.ColumnElement[bool]:
    bounds = []
    if above > float("-inf"):
        bounds.append(_S.score_raw > above)
    if up_to < float("inf"):
        bounds.append(_S.score_raw <= up_to)
    return sa.and_(*bounds)
