"""Find and change accounts in the ledger for operators.

Each change runs in a transaction of its caller. The selector detects changed limits in the ledger by itself.
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

from auth.users import Stranger, User, add_to_account, forget_logins, remove_from_account, users_of_account
from ops.errors import OperatorError, UsageError
from ops.ids import parse_id
from ops.output import changed
from schema.tables import accounts, monitors, servers

_SLUG: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,148}[a-z0-9])?")
_TOKEN: Final = re.compile(r"[a-z0-9]{4,36}")
_LETTERS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_EMAIL: Final = re.compile(r"[!-?A-~]{1,64}@[A-Za-z0-9.-]{1,190}")
_URL: Final = re.compile(r"https?://[^\s/]+(?:/\S*)?")

MOST_MONITORS: Final = 1_000
MOST_PER_SERVER: Final = 50

FLAGS: Final[Mapping[str, str]] = {
    "monitor-limit": "monitor_limit",
    "monitors-per-server": "monitors_per_server_limit",
    "monitor-enabled": "monitor_enabled",
}
"""Option names, and the keys that they set in the JSON of ``accounts.flags``."""

COLUMNS: Final[Mapping[str, str]] = {
    "organization": "organization_name",
    "url": "organization_url",
    "slug": "url_slug",
}
"""Option names, and the columns that they set; these may be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountChange:
    """The values that an operator gave for an account: columns and flags by name; ``None`` clears one."""

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
    """Validate the given values.

    Raises:
        UsageError: a value is invalid for the ledger or its readers, or is both set and unset.
    """
    for option, text, most in (("NAME", name, 255), ("--organization", organization, 150), ("--url", url, 150)):
        if text is not None and (not 1 <= len(text) <= most or not text.isprintable()):
            raise UsageError(f"{option} {text[:most]!r}: must be 1 to {most} characters on one line")
    if url is not None and not _URL.fullmatch(url):
        raise UsageError(f"--url {url!r}: must be a URL such as https://example.org/")
    if slug is not None and not _SLUG.fullmatch(slug):
        raise UsageError(f"--slug {slug[:150]!r}: must be lower-case letters, digits and '-', such as example-org")
    if token is not None and not _TOKEN.fullmatch(token):
        raise UsageError(f"--token {token[:36]!r}: must be 4 to 36 lower-case letters and digits")
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
            raise UsageError(f"--unset {option}: conflicts with --{option}; give only one of them")
        target[key] = None
    return AccountChange(columns=columns, flags=flags)


def find_account(connection: Connection, text: str, *, lock: bool = False) -> int:
    """Return the id of the account that ``text`` identifies by id, token, slug or name.

    Raises:
        OperatorError: no account matches, or more than one.
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
            f"account {text!r}: no account has that id, token, slug or name (see 'ntppool-monitor accounts list')"
        )
    choices = ", ".join(f"{row.name} (id {row.id})" for row in found)
    raise OperatorError(f"account {text!r}: is ambiguous: {choices}; give the id")


def add_account(connection: Connection, change: AccountChange, now: datetime) -> str:
    """Add an account and return a line that describes the change.

    Raises:
        OperatorError: the token or slug belongs to another account.
    """
    values = dict(change.columns)
    values.setdefault("id_token", "".join(secrets.choice(_LETTERS) for _ in range(7)))
    _must_be_free(connection, values)
    flags: Any = dict(change.flags) or sa.null()
    done = connection.execute(sa.insert(accounts).values(**values, flags=flags, created_on=now))
    assert done.inserted_primary_key is not None
    return f"account {values['name']} (id {done.inserted_primary_key[0]}, token {values['id_token']}): added"


def set_account(connection: Connection, text: str, change: AccountChange) -> list[str]:
    """Change an account and return a line with the old and the new value for each change.

    Raises:
        OperatorError: there is no such account, or the token or slug belongs to another.
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
    """Return the row, with its flags as text, so that invalid flags do not hide the other columns."""
    a = accounts.c
    columns = (a.id, a.id_token, a.name, a.organization_name, a.organization_url, a.url_slug, a.created_on)
    query = sa.select(*columns, sa.type_coerce(a.flags, sa.Text).label("flags"))
    return connection.execute(query.where(a.id == account_id)).one()


def flags_of(text: str | None) -> dict[str, Any]:
    """Parse the flags in a row's text; return no flags if it is not a JSON object."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


ACCOUNT_COLUMNS: Final = ("id", "token", "slug", "name", "monitors", "servers", "limit", "per server", "enabled")


def list_accounts(connection: Connection) -> list[tuple[Any, ...]]:
    """Return all accounts by id, with the numbers of their monitors and servers."""
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
    """Count the monitors (per protocol) and servers of each account, without deleted ones."""
    m, s = monitors.c, servers.c
    of_monitors = sa.select(m.account_id, sa.func.count()).where(m.type == "monitor", m.status != "deleted")
    of_servers = sa.select(s.account_id, sa.func.count()).where(s.deletion_on.is_(None))
    return (
        {row[0]: row[1] for row in connection.execute(of_monitors.group_by(m.account_id))},
        {row[0]: row[1] for row in connection.execute(of_servers.group_by(s.account_id))},
    )


def _plain(value: object) -> int | bool | str | None:
    """Return a flag as a cell; an unexpected value as its JSON."""
    return value if value is None or isinstance(value, int | str) else json.dumps(value)


USER_COLUMNS: Final = ("id", "email")


def list_users(connection: Connection, text: str) -> list[tuple[Any, ...]]:
    """Return the users who may act for an account.

    Raises:
        OperatorError: there is no such account.
    """
    return [(user.id, user.email) for user in users_of_account(connection, find_account(connection, text))]


def add_user(connection: Connection, text: str, email: str) -> str:
    """Let the user with this address act for an account, and return a line that describes the change.

    Raises:
        OperatorError: there is no such account, or the user is deleted.
        UsageError: this is no e-mail address.
    """
    if not _EMAIL.fullmatch(email):
        raise UsageError(f"EMAIL {email[:255]!r}: must be an e-mail address such as anna@example.org")
    user = add_to_account(connection, account_id := find_account(connection, text, lock=True), email)
    if isinstance(user, Stranger):
        raise OperatorError(f"user {email}: is deleted")
    return f"account {account_id}: {user.email} (user {user.id}) may act for it"


def remove_user(connection: Connection, text: str, email: str) -> str:
    """End a user's right to act for an account, and return a line that describes the change.

    Raises:
        OperatorError: there is no such account, or the user may not act for it.
    """
    account_id = find_account(connection, text, lock=True)
    user: User | None = remove_from_account(connection, account_id, email)
    if user is None:
        raise OperatorError(f"user {email[:255]!r}: may not act for account {account_id} anyway")
    return f"account {account_id}: {user.email} (user {user.id}) may no longer act for it"


def unlink_user(connection: Connection, email: str) -> str:
    """Forget the logins of a user, and return a line that describes the change.

    Raises:
        OperatorError: there is none.
    """
    count = forget_logins(connection, email)
    if not count:
        raise OperatorError(f"user {email[:255]!r}: is linked to no login")
    return f"user {email}: {count} unlinked; the next login with this address is linked"


def show_account(connection: Connection, text: str) -> tuple[int, list[tuple[str, Any]]]:
    """Return the id of an account and all its fields in the ledger.

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
