"""Read from the ledger who the person of a session is, and what they may do; for each request anew."""

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from api.pages.session import KeyLogin, UserLogin
from auth.api_key_store import valid_key
from auth.api_keys import Audience
from auth.registration.model import Confirmer
from auth.users import User, accounts_of_user, linked_user, same_address
from schema.tables import accounts


def read_person(
    connection: Connection, login: KeyLogin | UserLogin | None, operators: Collection[str], now: datetime
) -> Confirmer | None:
    """Return the person who has logged in; ``None`` if nobody has, or their right to has ended.

    Args:
        operators: the entries of ``API_OPERATORS``.
    """
    match login:
        case KeyLogin():
            return _holder_of_key(connection, login, operators, now)
        case UserLogin():
            return _user(connection, login, operators)
    return None


def _holder_of_key(
    connection: Connection, login: KeyLogin, operators: Collection[str], now: datetime
) -> Confirmer | None:
    key = valid_key(connection, login.key_id, now)
    if key is None or key.audience is not Audience.ACCOUNT or key.account_id is None:
        return None
    a = accounts.c
    row = connection.execute(sa.select(a.name, a.id_token).where(a.id == key.account_id)).first()
    if row is None:
        return None
    operator = bool(row.id_token) and f"account:{row.id_token}" in operators
    label = f"key {key.id} of account {row.name or row.id_token or key.account_id}"
    return Confirmer(label, frozenset({key.account_id}), operator=operator)


def _user(connection: Connection, login: UserLogin, operators: Collection[str]) -> Confirmer | None:
    user = linked_user(connection, login.issuer, login.subject)
    if not isinstance(user, User) or user.id != login.user_id:
        return None
    operator = f"subject:{login.subject}" in operators
    # Only the address that the provider has verified: that of the ledger was typed by someone.
    operator = operator or (
        bool(login.email) and any(":" not in entry and same_address(login.email, entry) for entry in operators)
    )
    return Confirmer(user.email, accounts_of_user(connection, user.id), user.id, operator)
