"""Remember the sessions that people have ended by logging out, since a copy of a cookie would otherwise live on.

Sessions themselves are not stored: all that one needs is in its signed cookie.
"""

from datetime import datetime
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.bulk import insert_or_ignore
from runtime.db.engine import to_db
from schema.tables import ended_sessions


class _Ended(NamedTuple):
    id: str


_END: Final = insert_or_ignore(ended_sessions, _Ended, common=["forget_on"])


def end_session(connection: Connection, session_id: str, forget_on: datetime) -> None:
    """End a session, unless it was ended before.

    Args:
        forget_on: when the session ends by itself for every process.
    """
    _END.execute(connection, [_Ended(session_id)], forget_on=to_db(forget_on))


def has_ended(connection: Connection, session_id: str) -> bool:
    """Return whether the session was ended."""
    query = sa.select(ended_sessions.c.id).where(ended_sessions.c.id == session_id)
    return connection.scalar(query) is not None


def forget_ended_sessions(connection: Connection, now: datetime) -> int:
    """Remove the sessions that have ended by themselves by now; return their number."""
    return connection.execute(sa.delete(ended_sessions).where(ended_sessions.c.forget_on <= to_db(now))).rowcount
