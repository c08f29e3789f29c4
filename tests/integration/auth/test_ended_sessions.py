"""Test on every database that an ended session is remembered exactly as long as its cookie could be valid."""

from datetime import timedelta

from sqlalchemy.engine import Engine

from auth.ended_sessions import end_session, forget_ended_sessions, has_ended
from runtime.db.engine import reading, transaction
from testbed.fixtures.registering import NOW

HOUR = timedelta(hours=1)


def ended(engine: Engine, *ids: str) -> list[bool]:
    with reading(engine) as connection:
        return [has_ended(connection, each) for each in ids]


def test_session_is_ended_once_and_remembered_until_it_would_have_ended(engine: Engine) -> None:
    early, late, other = "a" * 22, "b" * 22, "A" * 22
    for _ in range(2):
        transaction(engine, lambda c: end_session(c, early, NOW + HOUR))
    transaction(engine, lambda c: end_session(c, late, NOW + 2 * HOUR))
    assert ended(engine, early, late, other) == [True, True, False], "capital letters are other letters"
    removed = [transaction(engine, lambda c, at=NOW + n * HOUR: forget_ended_sessions(c, at)) for n in range(3)]
    assert removed == [0, 1, 1]
    assert ended(engine, early, late) == [False, False]
