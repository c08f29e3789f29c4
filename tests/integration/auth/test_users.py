"""Test which user is behind a login, on every database: the linked one, else the one with the verified address."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from auth.users import (
    Identity,
    Stranger,
    User,
    accounts_of_user,
    add_to_account,
    forget_logins,
    linked_user,
    remove_from_account,
    user_at_login,
    users_of_account,
)
from runtime.db.engine import reading, transaction
from schema.tables import user_identities, users
from testbed.fixtures.registering import NOW, account

ISSUER = "https://login.example"


def anna(subject: str = "1", email: str | None = "anna@example.org", issuer: str = ISSUER) -> Identity:
    return Identity(issuer, subject, email)


def member(engine: Engine, account_id: int, email: str) -> User:
    found = transaction(engine, lambda c: add_to_account(c, account_id, email))
    assert isinstance(found, User)
    return found


def log_in(engine: Engine, identity: Identity) -> User | Stranger:
    return user_at_login(engine, identity, NOW)


def test_first_login_links_by_verified_address_and_later_ones_go_by_subject(engine: Engine) -> None:
    user = member(engine, account(engine, "4xhq2c9"), "Anna@example.org")
    assert log_in(engine, anna(email=None)) is Stranger.NO_EMAIL
    assert log_in(engine, anna(email="other@example.org")) is Stranger.UNKNOWN
    assert log_in(engine, anna()) == user, "the case of letters in an address means nothing"
    assert log_in(engine, anna(email=None)) == log_in(engine, anna(email="other@example.org")) == user
    assert log_in(engine, anna("2")) is Stranger.OTHER_LOGIN, "addresses change hands"
    assert log_in(engine, anna("1", issuer="https://other.example", email=None)) is Stranger.NO_EMAIL
    assert log_in(engine, anna("2", issuer="https://other.example")) == user
    with reading(engine) as connection:
        assert linked_user(connection, ISSUER, "1") == user
        assert linked_user(connection, ISSUER, "2") is None
        assert linked_user(connection, ISSUER.upper(), "1") is None, "issuers and subjects are compared exactly"
    assert transaction(engine, lambda c: forget_logins(c, "anna@example.org")) == 2
    assert log_in(engine, anna("2")) == user


def test_addresses_that_only_look_alike_are_of_different_people(engine: Engine) -> None:
    """The collations of MySQL and MariaDB ignore accents, and Unicode's lower case maps the Kelvin sign to k."""
    owned = account(engine, "4xhq2c9")
    member(engine, owned, "jose@example.org")
    member(engine, owned, "kim@example.org")
    for alike in ("jos\u00e9@example.org", "\u212aim@example.org", "jose@example.org ", "jose@\u0435xample.org", "%"):
        assert log_in(engine, anna("7", alike)) is Stranger.UNKNOWN, alike
    assert log_in(engine, anna("8", "x" * 300 + "@example.org")) is Stranger.NO_EMAIL


def test_deleted_user_is_nobody(engine: Engine) -> None:
    owned = account(engine, "4xhq2c9")
    user = member(engine, owned, "anna@example.org")
    assert log_in(engine, anna()) == user
    gone = sa.update(users).values(deletion_on=datetime(2026, 1, 1))
    transaction(engine, lambda c: c.execute(gone))
    assert log_in(engine, anna()) is log_in(engine, anna("2")) is Stranger.DELETED
    assert transaction(engine, lambda c: add_to_account(c, owned, "anna@example.org")) is Stranger.DELETED


def test_simultaneous_first_logins_are_one(engine: Engine) -> None:
    user = member(engine, account(engine, "4xhq2c9"), "anna@example.org")
    with ThreadPoolExecutor(4) as pool:
        same = list(pool.map(lambda _: log_in(engine, anna()), range(6)))
        different = set(pool.map(lambda number: log_in(engine, anna(str(number))), range(2, 6)))
    assert same == [user] * 6 and different == {Stranger.OTHER_LOGIN}
    with reading(engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(user_identities)) == 1


def test_users_of_an_account(engine: Engine) -> None:
    one, other = account(engine, "4xhq2c9"), account(engine, "another")
    user = member(engine, one, "anna@example.org")
    assert member(engine, one, "ANNA@example.org") == member(engine, other, "anna@example.org") == user
    bo = member(engine, other, "bo@example.org")
    with reading(engine) as connection:
        assert users_of_account(connection, one) == [user]
        assert users_of_account(connection, other) == [user, bo]
        assert accounts_of_user(connection, user.id) == {one, other}
    assert transaction(engine, lambda c: remove_from_account(c, one, "anna@example.org")) == user
    assert transaction(engine, lambda c: remove_from_account(c, one, "anna@example.org")) is None
    assert transaction(engine, lambda c: remove_from_account(c, one, "nobody@example.org")) is None
    with reading(engine) as connection:
        assert accounts_of_user(connection, user.id) == {other}
