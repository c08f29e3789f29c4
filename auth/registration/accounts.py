"""Read an account under a lock: its monitors are named, counted and moved by one transaction at a time."""

import json

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from auth.registration.model import Account
from runtime.db.locks import lock_account_id
from schema.tables import accounts, monitors


def lock_account(connection: Connection, account_id: int) -> Account | None:
    """Return an account, whose row is locked until the transaction ends; ``None`` if there is none."""
    a, m = accounts.c, monitors.c
    query = sa.select(a.id_token, sa.type_coerce(a.flags, sa.Text).label("flags")).where(a.id == account_id)
    row = connection.execute(query.with_for_update()).first()
    if row is None:
        return None
    lock_account_id(connection, account_id)
    count = sa.select(sa.func.count()).where(m.account_id == account_id, m.type == "monitor", m.status != "deleted")
    try:
        flags = json.loads(row.flags or "null")
    except (ValueError, RecursionError):
        flags = "unreadable"
    if flags is None:
        flags = {}
    elif not isinstance(flags, dict):
        flags = {"monitor_limit": 0}  # an unreadable limit is no permission
    limit = flags.get("monitor_limit")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        limit = 0
    enabled = flags.get("monitor_enabled") is True
    return Account(account_id, row.id_token or "", connection.scalar(count) or 0, limit, enabled)
