"""Find the servers with a low score. The limits are the pool's: it hands out no server at 10 or below, and tells its
owner again at -15."""

from datetime import date, datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from notifier.model import Fact, Key, moment
from notifier.rules import SERVER_LOW, SERVER_VERY_LOW
from notifier.texts import Links, plain
from runtime.db.engine import from_db
from schema.tables import servers

LIMITS: Final = {SERVER_LOW: 10.0, SERVER_VERY_LOW: -15.0}

NEW_FOR: Final = timedelta(days=2)
"""Time after which a new server should have a good score: it begins at 0, and has no active monitor at first."""


class ServerRow(NamedTuple):
    """What the rules need of a server."""

    id: int
    ip: str
    hostname: str | None
    account_id: int | None
    score_ts: datetime | None
    score_raw: float
    created_on: datetime | None


_C: Final = servers.c
_QUERY: Final = sa.select(*(getattr(_C, name) for name in ServerRow._fields)).where(
    sa.or_(_C.deletion_on.is_(None), _C.deletion_on > sa.bindparam("today"))
)


def read_servers(connection: Connection, today: date) -> list[ServerRow]:
    """Read all servers that are not deleted."""
    rows = (ServerRow(*row) for row in connection.execute(_QUERY, {"today": today}))
    return [row._replace(score_ts=moment(row.score_ts), created_on=moment(row.created_on)) for row in rows]


def server_facts(row: ServerRow, now: datetime, links: Links) -> list[Fact]:
    """Return a fact for each limit. A server that was never scored, or is new, is not judged."""
    new = row.created_on is not None and now - row.created_on < NEW_FOR
    known = row.score_ts is not None and (not new or row.score_raw >= LIMITS[SERVER_LOW])
    scored = "" if row.score_ts is None else f", computed {from_db(row.score_ts):%Y-%m-%d %H:%M} UTC"
    name = row.ip if not row.hostname else f"{row.ip} ({plain(row.hostname, 100)})"
    return [
        Fact(
            key=Key(kind, str(row.id)),
            bad=row.score_raw < limit if known else None,
            name=name,
            detail=f"score {row.score_raw:.1f}{scored}",
            account_id=row.account_id,
            link=links.server(row.ip),
            score=row.score_raw,
        )
        for kind, limit in LIMITS.items()
    ]
