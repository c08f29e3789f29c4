"""Move a monitor to another account, with its API keys: one transaction, which may be repeated.

The monitor keeps its name, which contains the token of the account that registered it: results, certificates and
the configuration of its host refer to it. The selector detects the move in the ledger, and reviews its servers.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from auth.api_key_store import keys_of_monitors
from auth.registration.accounts import lock_account
from auth.registration.model import Account, Confirmer, Problem
from runtime.db.engine import transaction
from runtime.db.locks import lock_monitors
from schema.names import short_name
from schema.tables import api_keys, monitors


@dataclass(frozen=True, slots=True)
class Moved:
    """The monitor belongs to the account now."""

    name: str


def move_monitor(engine: Engine, name: str, account_id: int, by: Confirmer) -> Moved | Problem:
    """Move all protocols of a monitor to another account, for someone who may act for both.

    Raises:
        DatabaseUnavailable: the ledger cannot be reached; repeating this is safe.
    """
    return transaction(engine, lambda connection: _move(connection, name, account_id, by))


def _move(connection: Connection, name: str, account_id: int, by: Confirmer) -> Moved | Problem:
    account = lock_account(connection, account_id)
    if account is None or not by.may_act_for(account_id):
        return Problem("You may not move monitors to this account.")
    rows = _rows(connection, name)
    if not rows or not all(by.may_act_for(row.account_id) for row in rows):
        return Problem("There is no such monitor.")
    added = sum(row.account_id != account_id for row in rows)
    if (problem := _beyond_limit(account, added)) is not None:
        return problem
    ids = [row.id for row in rows]
    connection.execute(
        sa.update(monitors).where(monitors.c.id.in_(ids)).values(account_id=account_id, user_id=by.user_id)
    )
    keys = keys_of_monitors(connection, ids)
    connection.execute(sa.update(api_keys).where(api_keys.c.id.in_(keys)).values(account_id=account_id))
    return Moved(short_name(name))


def _rows(connection: Connection, name: str) -> list[Any]:
    """Return the protocols of the monitor that are not deleted, and lock them."""
    m = monitors.c
    query = sa.select(m.id, m.tls_name, m.account_id, m.status).where(m.tls_name == name, m.type == "monitor")
    rows = connection.execute(query.order_by(m.tls_name, m.ip_version).with_for_update()).all()
    lock_monitors(connection, [name])
    # To most collations, names that differ in case or trailing spaces are equal.
    return [row for row in rows if row.tls_name == name and row.status != "deleted"]


def _beyond_limit(account: Account, added: int) -> Problem | None:
    if not added or account.monitor_limit is None or account.monitors + added <= account.monitor_limit:
        return None
    return Problem(
        f"The account has {account.monitors} monitors, and may have {account.monitor_limit} (IPv4 and IPv6 count "
        "separately); remove one, or ask an operator of the pool for more."
    )
