"""Test the operators' commands for accounts, on every database."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from ops.accounts import (
    account_change,
    add_account,
    add_user,
    find_account,
    list_accounts,
    list_users,
    remove_user,
    set_account,
    show_account,
    unlink_user,
)
from ops.errors import OperatorError, UsageError
from runtime.db.engine import reading, transaction
from schema.tables import accounts
from selector.monitors import read_monitors
from testbed.fixtures.world import add_monitor, add_server, monitor_name

NOW = datetime(2026, 11, 23, 12, 0, 0)
T = TypeVar("T")


def write(engine: Engine, work: Callable[[Connection], T]) -> T:
    return transaction(engine, work)


def read(engine: Engine, work: Callable[[Connection], T]) -> T:
    with reading(engine) as connection:
        return work(connection)


def add(engine: Engine, name: str, **given: Any) -> str:
    return write(engine, lambda c: add_account(c, account_change(name=name, **given), NOW))


def change(engine: Engine, text: str, **given: Any) -> list[str]:
    return write(engine, lambda c: set_account(c, text, account_change(**given)))


def flags(engine: Engine, account_id: int) -> Any:
    query = sa.select(sa.type_coerce(accounts.c.flags, sa.Text)).where(accounts.c.id == account_id)
    text = read(engine, lambda c: c.scalar(query))
    return None if text is None else json.loads(text)


def test_new_account_is_found_by_id_name_slug_and_token(engine: Engine) -> None:
    assert "(id " in add(engine, "Ticks & Tocks", slug="ticks", token="4xhq2c9", monitors_per_server=3)
    add(engine, "Another")
    for text in ("ticks", "4xhq2c9", "Ticks & Tocks"):
        found = read(engine, lambda c, text=text: find_account(c, text))  # type: ignore[misc]
        assert str(found) and read(engine, lambda c, i=found: find_account(c, str(i))) == found  # type: ignore[misc]
        assert flags(engine, found) == {"monitors_per_server_limit": 3}
    row = read(engine, lambda c: c.execute(sa.select(accounts).where(accounts.c.url_slug == "ticks")).one())
    assert (row.name, row.id_token, row.created_on) == ("Ticks & Tocks", "4xhq2c9", NOW)


def test_token_is_generated_and_flags_are_null_if_none_are_given(engine: Engine) -> None:
    add(engine, "One")
    add(engine, "Two")
    rows = read(engine, lambda c: c.execute(sa.select(accounts.c.id, accounts.c.id_token)).all())
    assert len({row.id_token for row in rows}) == 2
    assert all(len(row.id_token) == 7 and row.id_token.isalnum() for row in rows)
    assert [flags(engine, row.id) for row in rows] == [None, None]


def test_ambiguous_name_is_refused_with_the_matching_accounts(engine: Engine) -> None:
    add(engine, "Same")
    add(engine, "Same")
    with pytest.raises(OperatorError, match=r"is ambiguous: Same \(id \d+\), Same \(id \d+\); give the id"):
        read(engine, lambda c: find_account(c, "Same"))


@pytest.mark.parametrize("text", ["nobody", "", "%", "99999999999", "_"])
def test_unknown_account_is_named(engine: Engine, text: str) -> None:
    add(engine, "One")
    with pytest.raises(OperatorError, match=f"account {text!r}: no account has that id"):
        read(engine, lambda c: find_account(c, text))


def test_token_and_slug_are_unique(engine: Engine) -> None:
    add(engine, "One", slug="one", token="aaaa")
    for given, option in (({"slug": "one"}, "--slug one"), ({"token": "aaaa"}, "--token aaaa")):
        with pytest.raises(OperatorError, match=rf"{option}: belongs to account One \(id \d+\)"):
            add(engine, "Two", **given)
    add(engine, "Two", slug="two")
    with pytest.raises(OperatorError, match="--slug one: belongs to account One"):
        change(engine, "two", slug="one")
    assert change(engine, "one", slug="one") != [], "its own"


def test_change_reports_old_and_new_values_and_keeps_the_others(engine: Engine) -> None:
    add(engine, "One", slug="one", monitor_limit=5, url="https://one.example/")
    account_id = read(engine, lambda c: find_account(c, "one"))
    other = {"of somebody else": [1]}
    current = {"monitor_limit": 5}
    write(
        engine,
        lambda c: c.execute(sa.update(accounts).where(accounts.c.id == account_id).values(flags=current | other)),
    )
    head = f"account One (id {account_id}): "
    assert change(engine, "one", monitors_per_server=1, monitor_enabled=True, organization="O") == [
        f"{head}organization_name: was not set, is O",
        f"{head}monitors_per_server_limit: was not set, is 1",
        f"{head}monitor_enabled: was not set, is yes",
    ]
    assert flags(engine, account_id) == current | other | {"monitors_per_server_limit": 1, "monitor_enabled": True}
    assert change(engine, "one", unset=["monitor-limit", "url", "monitors-per-server", "monitor-enabled"]) == [
        f"{head}organization_url: was https://one.example/, is not set",
        f"{head}monitor_limit: was 5, is not set",
        f"{head}monitors_per_server_limit: was 1, is not set",
        f"{head}monitor_enabled: was yes, is not set",
    ]
    assert flags(engine, account_id) == other
    row = read(engine, lambda c: c.execute(sa.select(accounts).where(accounts.c.id == account_id)).one())
    assert (row.organization_url, row.organization_name, row.url_slug) == (None, "O", "one")


def test_the_selector_sees_a_changed_limit(engine: Engine) -> None:
    add(engine, "One", slug="one")
    account_id = read(engine, lambda c: find_account(c, "one"))
    write(engine, lambda c: add_monitor(c, monitor_name("m"), account_id=account_id))

    def limit() -> int:
        [row] = read(engine, lambda c: read_monitors(c, NOW.astimezone())).monitors
        return row.limit.value

    assert limit() == 2
    change(engine, "one", monitors_per_server=4)
    assert limit() == 4


def test_account_with_invalid_flags_does_not_hide_others(sqlite_engine: Engine) -> None:
    add(sqlite_engine, "Broken", slug="broken")
    add(sqlite_engine, "Good", monitor_limit=7)
    broken = sa.update(accounts).where(accounts.c.url_slug == "broken")
    write(sqlite_engine, lambda c: c.execute(broken.values(flags=sa.literal("{no JSON", sa.Text))))
    rows = read(sqlite_engine, list_accounts)
    assert [(row[3], row[6]) for row in rows] == [("Broken", None), ("Good", 7)]
    assert change(sqlite_engine, "broken", monitor_limit=3)[0].endswith("monitor_limit: was not set, is 3")


def test_accounts_are_listed_and_shown_with_monitors_and_servers(engine: Engine) -> None:
    add(engine, "One", slug="one", token="aaaa", monitor_limit=5, monitor_enabled=False)
    account_id = read(engine, lambda c: find_account(c, "one"))
    for name, status in (("a", "active"), ("b", "deleted"), ("c", "pending")):
        write(engine, lambda c, n=name, s=status: add_monitor(c, monitor_name(n), status=s, account_id=account_id))  # type: ignore[misc]
    write(engine, lambda c: add_server(c, account_id=account_id))
    assert read(engine, list_accounts) == [(account_id, "aaaa", "one", "One", 2, 1, 5, None, False)]
    found, fields = read(engine, lambda c: show_account(c, "one"))
    shown = dict(fields)
    assert found == account_id
    assert (shown["name"], shown["monitors"], shown["servers"], shown["monitor_limit"]) == ("One", 2, 1, 5)
    assert shown["monitor_enabled"] is False


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"name": ""}, "NAME ''"),
        ({"name": "a\nb"}, "NAME"),
        ({"name": "x" * 256}, "must be 1 to 255 characters"),
        ({"organization": "x" * 151}, "--organization"),
        ({"url": "ftp://x"}, "--url 'ftp://x': must be a URL such as"),
        ({"url": "javascript:alert(1)"}, "--url"),
        ({"slug": "A b"}, "--slug"),
        ({"slug": "-a"}, "--slug"),
        ({"token": "abc"}, "--token"),
        ({"token": "a" * 37}, "--token"),
        ({"monitor_limit": 0}, "--monitor-limit 0: must be 1 to 1000"),
        ({"monitor_limit": 1001}, "--monitor-limit 1001"),
        ({"monitors_per_server": -1}, "--monitors-per-server -1: must be 1 to 50"),
        ({"monitors_per_server": 51}, "--monitors-per-server 51"),
        ({"unset": ["name"]}, "--unset 'name': must be one of organization"),
        ({"unset": ["url"], "url": "https://x"}, "--unset url: conflicts with --url"),
        ({"unset": ["monitor-limit"], "monitor_limit": 1}, "--unset monitor-limit: conflicts with"),
    ],
)
def test_invalid_account_values_are_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as raised:
        account_change(**given)
    assert named in str(raised.value)


def test_the_largest_values_are_accepted(engine: Engine) -> None:
    add(engine, "x" * 255, organization="y" * 150, slug="s" * 150, token="t" * 36, monitor_limit=1000)


def test_users_of_an_account_are_added_listed_and_removed(engine: Engine) -> None:
    add(engine, "Ticks", slug="ticks")
    said = write(engine, lambda c: add_user(c, "ticks", "anna@example.org"))
    assert "anna@example.org" in said and "may act for it" in said
    assert [row[1] for row in read(engine, lambda c: list_users(c, "ticks"))] == ["anna@example.org"]
    with pytest.raises(OperatorError, match="is linked to no login"):
        write(engine, lambda c: unlink_user(c, "anna@example.org"))
    assert "no longer" in write(engine, lambda c: remove_user(c, "ticks", "anna@example.org"))
    assert read(engine, lambda c: list_users(c, "ticks")) == []
    with pytest.raises(OperatorError, match="may not act for account"):
        write(engine, lambda c: remove_user(c, "ticks", "anna@example.org"))
    with pytest.raises(OperatorError, match="no account has that id"):
        write(engine, lambda c: add_user(c, "nobody", "anna@example.org"))


@pytest.mark.parametrize(
    "email", ["", "anna", "anna@", "@example.org", "a b@example.org", "a@b@c", "é@example.org", "a@b\n"]
)
def test_user_is_added_with_an_address_only(sqlite_engine: Engine, email: str) -> None:
    add(sqlite_engine, "Ticks", slug="ticks")
    with pytest.raises(UsageError, match=r"must be an e-mail address such as anna@example\.org"):
        write(sqlite_engine, lambda c: add_user(c, "ticks", email))
