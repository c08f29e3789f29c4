"""Store the demo's world in the ledger, with settings that make the system fast enough to watch.

Only these settings differ from other systems: intervals of seconds instead of minutes, one sample, frequent reviews.
"""

import json
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.queue import REVIEWS
from schema.tables import accounts, log_scores, monitors, server_scores, servers, system_settings
from testbed.stack import CannotRun
from testbed.world import Server, World

INTERVAL: Final = 2.0
"""Seconds between two probes of an active or testing pair."""

INTERVAL_CANDIDATE: Final = 3.0
"""Seconds between two probes of a candidate; nine results make it testing."""

REVIEW: Final = 2.0
"""Seconds between two reviews of a server."""

_SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "monitors": {
        "interval_active": INTERVAL,
        "interval_testing": INTERVAL,
        "interval_candidate": INTERVAL_CANDIDATE,
        "samples": 1,
    },
    "selector": {"review_changed": REVIEW, "review_unchanged": REVIEW},
}


def require_empty(connection: Connection) -> None:
    """Check that this database does not contain a pool.

    Raises:
        CannotRun: it has servers, monitors or results.
    """
    for table in (accounts, servers, monitors, server_scores, log_scores):
        if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
            raise CannotRun(f"--database-url: the database has rows in {table.name}; the demo needs an empty database")


def store_world(connection: Connection, world: World, now: datetime) -> dict[str, int]:
    """Store ``world`` without its monitors, which register, and the settings; return the servers' ids by address."""
    tokens = {m.account: m.account_token for m in world.monitors}
    owners = tokens.keys() | {s.account for s in world.servers}
    account_ids = {
        name: _insert(connection, accounts, _account(name, tokens.get(name), now)) for name in sorted(owners)
    }
    for ipv in ("v4", "v6"):
        _insert(connection, monitors, _settings_monitor(ipv, world.base_checks, now))
    ids = {server.ip: _insert(connection, servers, _server(server, account_ids, now)) for server in world.servers}
    REVIEWS.add(connection, ids.values(), now)
    for key, value in _SETTINGS.items():
        values = {"key": key, "value": json.dumps(value), "created_on": now}
        # A database that was only migrated, or that has settings only, may already have these rows.
        connection.execute(sa.delete(system_settings).where(system_settings.c.key == key))
        _insert(connection, system_settings, values)
    return ids


def _account(name: str, token: str | None, now: datetime) -> dict[str, Any]:
    slug = f"demo-{name.replace(' ', '-')}"
    return {"name": name, "id_token": token, "url_slug": slug, "created_on": now, "flags": {}}


def _settings_monitor(ipv: str, base_checks: list[str], now: datetime) -> dict[str, Any]:
    """Make the pseudo-monitor whose config is the default for all monitors of a protocol."""
    return {
        "tls_name": f"settings-{ipv}.system",
        "ip_version": ipv,
        "status": "pending",
        "config": json.dumps({"samples": 1, "base_checks": base_checks if ipv == "v4" else []}),
        "created_on": now,
    }


def _server(server: Server, account_ids: dict[str, int], now: datetime) -> dict[str, Any]:
    return {
        "ip": server.ip,
        "ip_version": "v4",
        "account_id": account_ids[server.account],
        "hostname": None,
        "in_pool": 1,
        "flags": json.dumps({"port": server.port}),
        "created_on": now,
    }


def _insert(connection: Connection, table: sa.Table, row: dict[str, Any]) -> int:
    key = connection.execute(sa.insert(table).values(row)).inserted_primary_key
    assert key is not None
    return int(key[0])
