"""Test passwords with special characters: they work, and no message of server or driver contains them."""

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from runtime.db.dsn import parse_dsn
from runtime.db.engine import open_database
from testbed.database import administration
from testbed.fixtures.database import DatabaseServer

NAME = "of_passwords"


def account(server: DatabaseServer, password: str) -> URL:
    """Create an account with a client that uses UTF-8, and return the URL of its database."""
    url = server.create(NAME)
    engine = administration(url)
    with engine.begin() as connection:
        for host in ("%", "localhost", "127.0.0.1"):
            name = {"name": NAME, "host": host}
            connection.execute(sa.text("DROP USER IF EXISTS :name@:host"), name)
            made = sa.text("CREATE USER :name@:host IDENTIFIED BY :password")
            connection.execute(made, name | {"password": password})
            connection.execute(sa.text(f"GRANT ALL ON `{NAME}`.* TO :name@:host"), name)
    return url


@pytest.mark.parametrize(
    "password", ["pass\N{EURO SIGN}word", "p\N{LATIN SMALL LETTER U WITH DIAERESIS}ss", "p@/:?#%41 q"]
)
def test_login_works_with_any_characters_in_the_password(server: DatabaseServer, password: str) -> None:
    where = account(server, password)
    engine = open_database(parse_dsn(f"{NAME}:{password}@tcp({where.host}:{where.port})/{NAME}"))
    try:
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT DATABASE()")) == NAME
    finally:
        engine.dispose()


def test_wrong_password_does_not_appear_in_error_messages(server: DatabaseServer) -> None:
    where = account(server, "right")
    wrong = "w@rong\N{EURO SIGN}p@ss/w?rd#"
    engine = open_database(parse_dsn(f"mysql://{NAME}:{wrong}@{where.host}:{where.port}/{NAME}"))
    try:
        with pytest.raises(sa.exc.OperationalError, match="Access denied") as refused, engine.connect():
            pass
    finally:
        engine.dispose()
    said = f"{refused.value}{refused.value!r}{refused.value.orig!r}{engine!r}"
    assert not [wrong[at : at + 4] for at in range(len(wrong) - 3) if wrong[at : at + 4] in said]
