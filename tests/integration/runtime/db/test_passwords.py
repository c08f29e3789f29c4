"""Test that non-ASCII passwords work, and that no message of server or driver contains them."""

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from runtime.db.dsn import parse_dsn
from runtime.db.engine import open_database
from testbed.fixtures.database import DatabaseServer

NAME = "of_passwords"


def account(server: DatabaseServer, password: str) -> URL:
    """Where its database is, after it was made by a client that speaks UTF-8."""
    url = server.create(NAME)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
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
def test_a_password_of_any_characters_lets_in(server: DatabaseServer, password: str) -> None:
    where = account(server, password)
    engine = open_database(parse_dsn(f"{NAME}:{password}@tcp({where.host}:{where.port})/{NAME}"))
    try:
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT DATABASE()")) == NAME
    finally:
        engine.dispose()


def test_a_wrong_password_is_not_in_what_the_server_says(server: DatabaseServer) -> None:
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
