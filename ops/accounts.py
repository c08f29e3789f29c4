"""Accounts in the ledger, as operators find and change them. Each change is one transaction of its caller.

The selector sees changed limits in the ledger by itself.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ops.errors import OperatorError, UsageError
from ops.ids import parse_id
from ops.output import changed
from schema.tables import accounts, monitors, servers

_SLUG: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,148}[a-z0-9])?")
_TOKEN: Final = re.compile(r"[a-z0-9]{4,36}")
_LETTERS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_URL: Final = re.compile(r"https?://[^\s/]+(?:/\S*)?")

MOST_MONITORS: Final = 1_000
MOST_PER_SERVER: Final = 50

FLAGS: Final[Mapping[str, str]] = {
    "monitor-limit": "monitor_limit",
    "monitors-per-server": "monitors_per_server_limit",
    "monitor-enabled": "monitor_enabled",
}
"""What operators call them, and their names in the JSON of ``accounts.flags``."""

COLUMNS: Final[Mapping[str, str]] = {
    "organization": "organization_name",
    "url": "organization_url",
    "slug": "url_slug",
}
"""What operators call them, and their columns; these may be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountChange:
    """What an operator says of an account: values by column, flags by name; ``None`` empties one."""

    columns: Mapping[str, str | None]
    flags: Mapping[str, int | bool | None]


def account_change(
    *,
    name: str | None = None,
    organization: str | None = None,
    url: str | None = None,
    slug: str | None = None,
    token: str | None = None,
    monitor_limit: int | None = None,
    monitors_per_server: int | None = None,
    monitor_enabled: bool | None = None,
    unset: list[str] | None = None,
) -> AccountChange:
    """What was given, checked.

    Raises:
        UsageError: a value that the ledger or its readers cannot take, or one both set and unset.
    """
    for option, text, most in (("NAME", name, 255), ("--organization", organization, 150), ("--url", url, 150)):
        if text is not None and (not 1 <= len(text) <= most or not text.isprintable()):
            raise UsageError(f"{option} {text[:most]!r}: must be 1 to {most} characters on one line")
    if url is not None and not _URL.fullmatch(url):
        raise UsageError(f"--url {url!r}: must be such as https://example.org/")
    if slug is not None and not _SLUG.fullmatch(slug):
        raise UsageError(f"--slug {slug[:150]!r}: must be small letters, digits and '-', such as example-org")
    if token is not None and not _TOKEN.fullmatch(token):
        raise UsageError(f"--token {token[:36]!r}: must be 4 to 36 small letters and digits")
    for option, number, most in (
        ("--monitor-limit", monitor_limit, MOST_MONITORS),
        ("--monitors-per-server", monitors_per_server, MOST_PER_SERVER),
    ):
        if number is not None and not 1 <= number <= most:
            raise UsageError(f"{option} {number}: must be 1 to {most}")
    texts = {"name": name, "organization_name": organization, "organization_url": url, "url_slug": slug}
    columns: dict[str, str | None] = {key: value for key, value in (texts | {"id_token": token}).items() if value}
    limits = {"monitor_limit": monitor_limit, "monitors_per_server_limit": monitors_per_server}
    given = limits | {"monitor_enabled": monitor_enabled}
    flags: dict[str, int | bool | None] = {key: value for key, value in given.items() if value is not None}
    for option in unset or []:
        target, key = (columns, COLUMNS.get(option)) if option in COLUMNS else (flags, FLAGS.get(option))
        if key is None:
            raise UsageError(f"--unset {option!r}: must be one of {', '.join((*COLUMNS, *FLAGS))}")
        if key in target:
            raise UsageError(f"--unset {option}: and --{option} beside it; give one of them")
        target[key] = None
    return AccountChange(columns=columns, flags=flags)


def find_account(connection: Connection, text: str, *, lock: bool = False) -> int:
    """The id of the account that ``text`` means: its id, token, slug or name.

    Raises:
        OperatorError: none, or more than one of that name.
    """
    a = accounts.c
    number = parse_id(text)
    called = sa.or_(a.id_token == text, a.url_slug == text, a.name == text)
    query = sa.select(a.id, a.id_token, a.url_slug, a.name).where(called if number is None else a.id == number)
    query = query.order_by(a.id)
    rows = connection.execute(query.with_for_update() if lock else query).all()
    exact = [row for row in rows if text in (row.id_token, row.url_slug)]
    found = exact if len(exact) == 1 else rows
    if len(found) == 1:
        return int(found[0].id)
    if not found:
        raise OperatorError(
            f"account {text!r}: there is none with that id, token, slug or name ('ntppool-monitor accounts list' shows "
            "them)"
        )
    choices = ", ".join(f"{row.name} (id {row.id})" for row in found)
    raise OperatorError(f"account {text!r}: may be any of {choices}; name one by its id")


def add_account(connection: Connection, change: AccountChange, now: datetime) -> str:
    """Adds an account, and says what was done.

    Raises:
        OperatorError: token or slug belong to another.
    """
    values = dict(change.columns)
    values.setdefault("id_token", "".join(secrets.choice(_LETTERS) for _ in range(7)))
    _must_be_free(connection, values)
    flags: Any = dict(change.flags) or sa.null()
    done = connection.execute(sa.insert(accounts).values(**values, flags=flags, created_on=now))
    assert done.inserted_primary_key is not None
    return f"account {values['name']} (id {done.inserted_primary_key[0]}, token {values['id_token']}): added"


def set_account(connection: Connection, text: str, change: AccountChange) -> list[str]:
    """Changes an account, and says of each value what it was and is.

    Raises:
        OperatorError: there is no such account, or token or slug belong to another.
    """
    account_id = find_account(connection, text, lock=True)
    _must_be_free(connection, change.columns, but=account_id)
    row = _account(connection, account_id)
    flags = flags_of(row.flags)
    merged = {key: value for key, value in {**flags, **change.flags}.items() if value is not None}
    values: dict[str, Any] = dict(change.columns)
    if merged != flags:
        values["flags"] = merged or sa.null()
    if values:
        connection.execute(sa.update(accounts).where(accounts.c.id == account_id).values(values))
    before = {**{key: getattr(row, key) for key in change.columns}, **{key: flags.get(key) for key in change.flags}}
    after = {**change.columns, **change.flags}
    who = f"account {row.name} (id {account_id})"
    return [changed(who, key, before[key], after[key]) for key in before]


def _must_be_free(connection: Connection, values: Mapping[str, Any], *, but: int = 0) -> None:
    for key, option in (("id_token", "--token"), ("url_slug", "--slug")):
        if values.get(key) is not None:
            column = accounts.c[key]
            other = connection.execute(
                sa.select(accounts.c.id, accounts.c.name).where(column == values[key], accounts.c.id != but)
            ).first()
            if other is not None:
                raise OperatorError(f"{option} {values[key]}: belongs to account {other.name} (id {other.id})")


def _account(connection: Connection, account_id: int) -> sa.Row[Any]:
    """The row, with its flags as text: a broken one must not hide the others."""
    a = accounts.c
    columns = (a.id, a.id_token, a.name, a.organization_name, a.organization_url, a.url_slug, a.created_on)
    query = sa.select(*columns, sa.type_coerce(a.flags, sa.Text).label("flags"))
    return connection.execute(query.where(a.id == account_id)).one()


def flags_of(text: str | None) -> dict[str, Any]:
    """The flags in a row's text; what is no JSON object is as good as none."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


ACCOUNT_COLUMNS: Final = ("id", "token", "slug", "name", "monitors", "servers", "limit", "per server", "enabled")


def list_accounts(connection: Connection) -> list[tuple[Any, ...]]:
    """All accounts with what belongs to them, by id."""
    a = accounts.c
    query = sa.select(a.id, a.id_token, a.url_slug, a.name, sa.type_coerce(a.flags, sa.Text).label("flags"))
    monitors_of, servers_of = _counts(connection)
    return [
        (
            *(row.id, row.id_token, row.url_slug, row.name, monitors_of.get(row.id, 0), servers_of.get(row.id, 0)),
            *(_plain(flags_of(row.flags).get(key)) for key in FLAGS.values()),
        )
        for row in connection.execute(query.order_by(a.id))
    ]


def _counts(connection: Connection) -> tuple[dict[int, int], dict[int, int]]:
    """Monitors (per protocol) and servers of each account, without deleted ones."""
    m, s = monitors.c, servers.c
    of_monitors = sa.select(m.account_id, sa.func.count()).where(m.type == "monitor", m.status != "deleted")
    of_servers = sa.select(s.account_id, sa.func.count()).where(s.deletion_on.is_(None))
    return (
        {row[0]: row[1] for row in connection.execute(of_monitors.group_by(m.account_id))},
        {row[0]: row[1] for row in connection.execute(of_servers.group_by(s.account_id))},
    )


def _plain(value: object) -> int | bool | str | None:
    """A flag as a cell; odd ones as their JSON."""
    return value if value is None or isinstance(value, int | str) else json.dumps(value)


def show_account(connection: Connection, text: str) -> tuple[int, list[tuple[str, Any]]]:
    """The id of an account, and all that the ledger knows of it, field by field.

    Raises:
        OperatorError: there is no such account.
    """
    account_id = find_account(connection, text)
    row = _account(connection, account_id)
    monitors_of, servers_of = _counts(connection)
    return account_id, [
        ("id", row.id),
        ("token", row.id_token),
        ("slug", row.url_slug),
        ("name", row.name),
        ("organization", row.organization_name),
        ("url", row.organization_url),
        ("created", row.created_on),
        ("monitors", monitors_of.get(account_id, 0)),
        ("servers", servers_of.get(account_id, 0)),
        *((key, _plain(flags_of(row.flags).get(key))) for key in FLAGS.values()),
    ]
