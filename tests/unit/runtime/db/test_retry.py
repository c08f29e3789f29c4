"""Test which database errors are waited for, which repeat the transaction, and which are defects."""

import sqlite3
from collections.abc import Callable

import pymysql
import pytest
from pymysql import err
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from runtime.db.retry import AGAIN, RECONNECT, Reaction, reaction_to


def of_server(code: int, text: str = "of the test") -> pymysql.MySQLError:
    """Return the driver's exception for this error code."""
    kind = err.error_map.get(code, err.InternalError if code < 1000 else err.OperationalError)
    return kind(code, text)


def wrapped(error: Exception, *, lost: bool = False) -> DBAPIError:
    return OperationalError("INSERT ...", {}, error, connection_invalidated=lost)


@pytest.fixture(params=[lambda error: error, wrapped], ids=["driver's own", "SQLAlchemy's"])
def told(request: pytest.FixtureRequest) -> Callable[[Exception], Exception]:
    """Pass the driver's error on, or wrap it as SQLAlchemy does."""
    found: Callable[[Exception], Exception] = request.param
    return found


NAMED_BY_OPERATORS = {
    Reaction.AGAIN: (1028, 1180, 1205, 1213, 1317, 1412, 1467, 3101, 3572),
    Reaction.RECONNECT: (1040, 1045, 1047, 1053, 1226, 1290, 1665, 1792, 1836, 2003, 2006, 2013, 3118, 4151),
    Reaction.DEFECT: (1049, 1054, 1062, 1064, 1142, 1146, 1364, 1406, 1452),
}


@pytest.mark.parametrize(
    ("reaction", "code"), [(reaction, code) for reaction, codes in NAMED_BY_OPERATORS.items() for code in codes]
)
def test_server_errors_have_the_expected_reaction(
    told: Callable[[Exception], Exception], reaction: Reaction, code: int
) -> None:
    assert reaction_to(told(of_server(code))) is reaction


def test_each_error_has_one_reaction_and_a_reason() -> None:
    assert not AGAIN.keys() & RECONNECT.keys()
    assert all(reason for reason in [*AGAIN.values(), *RECONNECT.values()])


@pytest.mark.parametrize(("number", "reaction"), [(28, Reaction.RECONNECT), (122, Reaction.DEFECT)])
def test_storage_engine_errors_are_recognized_by_the_number_in_the_text(number: int, reaction: Reaction) -> None:
    text = f'Got error {number} "of the test" from storage engine InnoDB'
    assert reaction_to(of_server(1030, text)) is reaction


@pytest.mark.parametrize(
    "error",
    [
        err.InternalError("Packet sequence number wrong - got 1 expected 2"),
        err.OperationalError("received unknown auth switch request"),
        err.Error("Already closed"),
        err.InterfaceError(0, ""),
    ],
    ids=str,
)
def test_protocol_errors_of_the_driver_cause_a_reconnect(
    told: Callable[[Exception], Exception], error: Exception
) -> None:
    assert reaction_to(told(error)) is Reaction.RECONNECT


@pytest.mark.parametrize(
    ("text", "reaction"),
    [
        ("database is locked", Reaction.AGAIN),
        ("database or disk is full", Reaction.RECONNECT),
        ("disk I/O error", Reaction.RECONNECT),
        ("attempt to write a readonly database", Reaction.RECONNECT),
        ("no such table: t", Reaction.DEFECT),
    ],
)
def test_sqlite_errors_have_the_expected_reaction(
    told: Callable[[Exception], Exception], text: str, reaction: Reaction
) -> None:
    assert reaction_to(told(sqlite3.OperationalError(text))) is reaction


def test_lost_connection_causes_a_reconnect_whatever_the_error() -> None:
    assert reaction_to(wrapped(of_server(1064), lost=True)) is Reaction.RECONNECT


def test_exhausted_connection_pool_causes_a_reconnect() -> None:
    assert reaction_to(PoolTimeout("QueuePool limit of size 4 overflow 4 reached")) is Reaction.RECONNECT


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyError("x"), ProgrammingError("x", {}, ValueError("y"))])
def test_other_errors_are_defects(error: Exception) -> None:
    assert reaction_to(error) is Reaction.DEFECT
