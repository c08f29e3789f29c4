"""Store API keys, find the one that a client shows, and end them.

Each function runs in a transaction of its caller, except :func:`authenticate`. ``now`` has a time zone.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from auth.api_keys import (
    FORMER_KEY_LIFE,
    Audience,
    KeyText,
    Pepper,
    Peppers,
    generate,
    hash_key,
    matching_pepper,
    parse_key,
)
from runtime.db.engine import from_db, reading, to_db, to_db_seconds, transaction
from schema.tables import accounts, api_key_ends, api_keys, api_keys_monitors, monitors

SEEN_EVERY: Final = timedelta(minutes=1)
"""``last_seen`` is written at most this often."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A valid key, as its owner showed it; without its text."""

    id: int
    audience: Audience
    account_id: int | None
    user_id: int | None
    monitor_ids: tuple[int, ...]
    """Its monitors, also deleted ones; empty for the key of an account."""
    ends_on: datetime | None
    """When it ceases to be valid, if it has been replaced."""


@dataclass(frozen=True, slots=True)
class EndedKey:
    """A key that was ended, with the names of its monitors, whose sessions at the broker must be ended, too."""

    id: int
    ends_on: datetime
    names: tuple[str, ...]


def add_key(
    connection: Connection,
    peppers: Peppers,
    now: datetime,
    *,
    audience: Audience = Audience.MONITOR,
    account_id: int | None,
    user_id: int | None = None,
    monitor_ids: Collection[int] = (),
) -> tuple[int, KeyText]:
    """Store a new key, and return its id and its text, which is shown to its owner once and then forgotten."""
    key = generate(audience)
    row = {
        "account_id": account_id,
        "user_id": user_id,
        "audience": audience.value,
        "token_lookup": key.lookup,
        "token_hashed": hash_key(key, peppers.current),
        "created_on": to_db_seconds(now),
    }
    done = connection.execute(sa.insert(api_keys).values(row)).inserted_primary_key
    assert done is not None
    key_id = int(done[0])
    for monitor_id in sorted(monitor_ids):
        connection.execute(sa.insert(api_keys_monitors).values(api_key_id=key_id, monitor_id=monitor_id))
    return key_id, key


def authenticate(engine: Engine, peppers: Peppers, text: str, now: datetime) -> ApiKey | None:
    """Return the valid key that a client showed as ``text``; ``None`` if it is wrong, replaced or revoked.

    Records when it was last seen. A hash under a former pepper is replaced by one under the current pepper.

    Raises:
        DatabaseUnavailable: the ledger cannot be reached; this says nothing about the key.
    """
    key = parse_key(text)
    if key is None:
        return None
    with reading(engine) as connection:
        found = _find(connection, peppers, key, now)
        if found is None:
            return None
        row, pepper = found
        of_key = api_keys_monitors.c.api_key_id == row.id
        ids = connection.scalars(sa.select(api_keys_monitors.c.monitor_id).where(of_key)).all()
    if values := _changes(row, key, pepper, peppers, now):
        transaction(engine, lambda c: c.execute(sa.update(api_keys).where(api_keys.c.id == row.id).values(values)))
    ends_on = None if row.ends_on is None else from_db(row.ends_on)
    return ApiKey(row.id, key.audience, row.account_id, row.user_id, tuple(sorted(ids)), ends_on)


def valid_key(connection: Connection, key_id: int, now: datetime) -> ApiKey | None:
    """Return a key that was authenticated before, if it is still valid; for the sessions that began with it."""
    k, e, link = api_keys.c, api_key_ends.c, api_keys_monitors.c
    query = sa.select(k.id, k.audience, k.account_id, k.user_id, e.ends_on).where(k.id == key_id)
    row = connection.execute(query.select_from(api_keys.outerjoin(api_key_ends, e.api_key_id == k.id))).first()
    if row is None or row.audience not in set(Audience) or (row.ends_on is not None and row.ends_on <= to_db(now)):
        return None
    ids = connection.scalars(sa.select(link.monitor_id).where(link.api_key_id == key_id)).all()
    ends_on = None if row.ends_on is None else from_db(row.ends_on)
    return ApiKey(row.id, Audience(row.audience), row.account_id, row.user_id, tuple(sorted(ids)), ends_on)


def _find(connection: Connection, peppers: Peppers, key: KeyText, now: datetime) -> tuple[sa.Row[Any], Pepper] | None:
    k, e = api_keys.c, api_key_ends.c
    query: sa.Select[Any] = (
        sa.select(k.id, k.account_id, k.user_id, k.token_hashed, k.last_seen, e.ends_on)
        .select_from(api_keys.outerjoin(api_key_ends, e.api_key_id == k.id))
        .where(k.token_lookup == key.lookup, k.audience == key.audience.value)
    )
    for row in connection.execute(query):
        pepper = matching_pepper(key, row.token_hashed, peppers)
        if pepper is not None and (row.ends_on is None or to_db(now) < row.ends_on):
            return row, pepper
    return None


def _changes(row: sa.Row[Any], key: KeyText, pepper: Pepper, peppers: Peppers, now: datetime) -> dict[str, Any]:
    values: dict[str, Any] = {}
    # A time in the future was written by a clock that was wrong.
    if row.last_seen is None or not timedelta(0) <= to_db(now) - row.last_seen < SEEN_EVERY:
        values["last_seen"] = to_db_seconds(now)
    if pepper is not peppers.current:
        values["token_hashed"] = hash_key(key, peppers.current)
    return values


def keys_of_monitors(connection: Connection, monitor_ids: Collection[int]) -> list[int]:
    """Return the ids of all keys that cover one of the monitors, also ended ones."""
    link = api_keys_monitors.c
    query = sa.select(link.api_key_id).where(link.monitor_id.in_(sorted(monitor_ids))).distinct()
    return sorted(connection.scalars(query))


def replace_keys(connection: Connection, key_ids: Iterable[int], now: datetime) -> None:
    """Let keys end in ten minutes, since another one replaces them; keys that end sooner do."""
    for key_id in key_ids:
        _end(connection, key_id, to_db(now + FORMER_KEY_LIFE), "replaced")


def revoke_key(connection: Connection, key_id: int, now: datetime, reason: str = "revoked") -> EndedKey | None:
    """End a key now; ``None`` if there is no such key. Repeating this changes nothing."""
    if connection.scalar(sa.select(api_keys.c.id).where(api_keys.c.id == key_id).with_for_update()) is None:
        return None
    ends_on = _end(connection, key_id, to_db(now), reason)
    link = api_keys_monitors.c
    query = sa.select(monitors.c.tls_name).join(api_keys_monitors, link.monitor_id == monitors.c.id)
    names = connection.scalars(query.where(link.api_key_id == key_id).distinct())
    return EndedKey(key_id, from_db(ends_on), tuple(sorted(name for name in names if name)))


def _end(connection: Connection, key_id: int, ends_on: datetime, reason: str) -> datetime:
    """Record the end of a key unless it ends sooner, and return its end."""
    e = api_key_ends.c
    known = connection.scalar(sa.select(e.ends_on).where(e.api_key_id == key_id).with_for_update())
    if known is None:
        connection.execute(sa.insert(api_key_ends).values(api_key_id=key_id, ends_on=ends_on, reason=reason[:255]))
    elif ends_on < known:
        change = sa.update(api_key_ends).where(e.api_key_id == key_id)
        connection.execute(change.values(ends_on=ends_on, reason=reason[:255]))
    return ends_on if known is None else min(ends_on, known)


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key as operators see it; times are naive UTC."""

    id: int
    lookup: str
    audience: str
    account: str | None
    monitors: tuple[str, ...]
    created_on: datetime
    last_seen: datetime | None
    ends_on: datetime | None
    reason: str | None


def list_keys(connection: Connection, *, account_id: int | None = None) -> list[ListedKey]:
    """Return all keys, or those of an account, by id; also ended ones."""
    k, e, link = api_keys.c, api_key_ends.c, api_keys_monitors.c
    query = (
        sa.select(k.id, k.token_lookup, k.audience, accounts.c.name, k.created_on, k.last_seen, e.ends_on, e.reason)
        .select_from(
            api_keys.outerjoin(api_key_ends, e.api_key_id == k.id).outerjoin(accounts, accounts.c.id == k.account_id)
        )
        .order_by(k.id)
    )
    if account_id is not None:
        query = query.where(k.account_id == account_id)
    names: dict[int, set[str]] = {}
    linked = sa.select(link.api_key_id, monitors.c.tls_name).join(monitors, monitors.c.id == link.monitor_id)
    for key_id, name in connection.execute(linked):
        names.setdefault(key_id, set()).add(name or "")
    return [
        ListedKey(
            *(row.id, row.token_lookup, row.audience, row.name, tuple(sorted(names.get(row.id, ())))),
            *(row.created_on, row.last_seen, row.ends_on, row.reason),
        )
        for row in connection.execute(query)
    ]
