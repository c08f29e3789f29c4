"""Find the pool's user behind a login by OpenID Connect, and keep the users of an account.

A provider knows a person by issuer and subject. The first login links them to the user with the person's e-mail
address, which counts only if the provider has verified it; from then on the address plays no part, since addresses
change hands. Nobody becomes a user by logging in: operators add users to accounts.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from runtime.db.engine import to_db, transaction
from schema.tables import account_users, user_identities, users

LONGEST: Final = 255
"""Maximum characters of issuer, subject and e-mail address, those of their columns."""

_LETTERS: Final = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True, slots=True)
class Identity:
    """A person as a provider knows them."""

    issuer: str
    subject: str
    email: str | None = None
    """``None`` unless the provider has verified it."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of the pool."""

    id: int
    email: str


class Stranger(Enum):
    """The reason why a person who has logged in at the provider is no user here."""

    NO_EMAIL = auto()
    """The provider states no verified address."""
    UNKNOWN = auto()
    """No user has the address."""
    OTHER_LOGIN = auto()
    """The user with the address logs in as another subject of this provider."""
    DELETED = auto()
    """The user is deleted."""


def same_address(one: str, other: str) -> bool:
    """Return whether two e-mail addresses are the same: exactly, or except for the case of ASCII letters.

    No other letters are equal here, unlike in the ledger's collations, or an address that only looks like that of
    someone else would be theirs.
    """
    return one == other or (one.isascii() and other.isascii() and one.lower() == other.lower())


def user_at_login(engine: Engine, identity: Identity, now: datetime) -> User | Stranger:
    """Return the user behind an identity, which is linked to them at their first login.

    Raises:
        DatabaseUnavailable: the ledger cannot be reached.
    """
    return transaction(engine, lambda connection: _at_login(connection, identity, now), retry_on=(IntegrityError,))


def _at_login(connection: Connection, identity: Identity, now: datetime) -> User | Stranger:
    linked = linked_user(connection, identity.issuer, identity.subject)
    if linked is not None:
        return linked
    if identity.email is None or len(identity.email) > LONGEST:
        return Stranger.NO_EMAIL
    row = _by_address(connection, identity.email)
    if row is None:
        return Stranger.UNKNOWN
    if row.deletion_on is not None:
        return Stranger.DELETED
    # One login of a user is linked at a time; another process may have linked this one since it was read above.
    connection.execute(sa.select(users.c.id).where(users.c.id == row.id).with_for_update()).all()
    i = user_identities.c
    subject = connection.scalar(sa.select(i.subject).where(i.user_id == row.id, i.issuer == identity.issuer))
    if subject is not None:
        return User(row.id, row.email) if subject == identity.subject else Stranger.OTHER_LOGIN
    values = {"issuer": identity.issuer, "subject": identity.subject, "user_id": row.id, "linked_on": to_db(now)}
    connection.execute(sa.insert(user_identities).values(values))
    return User(row.id, row.email)


def linked_user(connection: Connection, issuer: str, subject: str) -> User | Stranger | None:
    """Return the user to whom an identity is linked; ``None`` if it is linked to nobody."""
    i, u = user_identities.c, users.c
    query = sa.select(u.id, u.email, u.deletion_on).join(users, u.id == i.user_id)
    row = connection.execute(query.where(i.issuer == issuer, i.subject == subject)).first()
    if row is None:
        return None
    return User(row.id, row.email) if row.deletion_on is None else Stranger.DELETED


def accounts_of_user(connection: Connection, user_id: int) -> frozenset[int]:
    """Return the accounts that a user may act for."""
    a = account_users.c
    return frozenset(connection.scalars(sa.select(a.account_id).where(a.user_id == user_id)))


def _by_address(connection: Connection, email: str, *, lock: bool = False) -> sa.Row[Any] | None:
    """Return the user with an address; a deleted one only if there is no other."""
    u = users.c
    alike = sa.or_(u.email == email, sa.func.lower(u.email) == email.lower())
    query: sa.Select[Any] = (
        sa.select(u.id, u.email, u.deletion_on).where(alike).order_by(u.deletion_on.is_not(None), u.id)
    )
    rows = connection.execute(query.with_for_update() if lock else query).all()
    exact = [row for row in rows if row.email == email]
    return next((row for row in [*exact, *rows] if same_address(row.email, email)), None)


# ---- for operators ---------------------------------------------------------------------------------------------------


def users_of_account(connection: Connection, account_id: int) -> list[User]:
    """Return the users who may act for an account, by address."""
    u, a = users.c, account_users.c
    query = sa.select(u.id, u.email).join(account_users, a.user_id == u.id).where(a.account_id == account_id)
    return [User(row.id, row.email) for row in connection.execute(query.order_by(u.email))]


def add_to_account(connection: Connection, account_id: int, email: str) -> User | Stranger:
    """Let the user with this address act for an account; create the user if there is none.

    Repeating this changes nothing.
    """
    row = _by_address(connection, email, lock=True)
    if row is not None and row.deletion_on is not None:
        return Stranger.DELETED
    if row is None:
        token = "".join(secrets.choice(_LETTERS) for _ in range(12))
        done = connection.execute(sa.insert(users).values(email=email, id_token=token)).inserted_primary_key
        assert done is not None
        user = User(int(done[0]), email)
    else:
        user = User(row.id, row.email)
    if account_id not in accounts_of_user(connection, user.id):
        connection.execute(sa.insert(account_users).values(account_id=account_id, user_id=user.id))
    return user


def remove_from_account(connection: Connection, account_id: int, email: str) -> User | None:
    """End a user's right to act for an account; ``None`` if the user had none. The user remains."""
    row = _by_address(connection, email, lock=True)
    if row is None or account_id not in accounts_of_user(connection, row.id):
        return None
    a = account_users.c
    connection.execute(sa.delete(account_users).where(a.account_id == account_id, a.user_id == row.id))
    return User(row.id, row.email)


def forget_logins(connection: Connection, email: str) -> int:
    """Unlink a user from all logins, and return their number: the next login with the address links it anew."""
    row = _by_address(connection, email, lock=True)
    if row is None:
        return 0
    i = user_identities.c
    return connection.execute(sa.delete(user_identities).where(i.user_id == row.id)).rowcount
