"""Retry transactions, and distinguish errors of the content, which must not block others, from errors of the database.

A batch is refused only for its content, since its sender then discards it. A full disk, a read-only database or a
missing table would fail every batch, so ingest retries as for an unavailable database. Data that may be lost, such as
last_seen updates, is retried only a few times; if a group fails, each item is retried alone, so that only the invalid
items are lost.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Final, TypeVar

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from runtime.retry import Setback
from runtime.worker import Worker

T = TypeVar("T")
Item = TypeVar("Item")

_FEW: Final = 3
"""Maximum attempts for data that may be lost."""

_CONTENT: Final = {
    1153: "a value exceeds the server's maximum packet size",
    1267: "a character that the column's character set lacks",
    1270: "the same, of three values",
    1271: "the same, of several values",
    1292: "an invalid time or number",
    1300: "bytes that are not characters",
    1301: "a result exceeds the server's maximum packet size",
    1411: "an invalid argument of a function",
    1690: "a number out of range",
    3140: "MySQL: a text that is not JSON",
    3156: "MySQL: a JSON value of another type than its column",
    3665: "MySQL: a value is missing in a JSON text",
    3666: "MySQL: a JSON value of another type than its column",
    3669: "MySQL: a JSON value out of its column's range",
    3819: "MySQL: a CHECK constraint",
    4025: "MariaDB: a CHECK constraint",
    4174: "MariaDB: a JSON value of another type than its column",
    4178: "MariaDB: a value is missing in a JSON text",
}
"""Errors of content that the driver does not distinguish from others, by number, with the reason."""

_UNFIT_VALUES: Final = (ValueError, TypeError, ArithmeticError, LookupError)


class ContentRefused(Exception):
    """Permanent failure to store these values; the cause is the error of the database or of the code."""


async def persist(worker: Worker, work: Callable[[], T], *, attempts: int | None = None) -> T:
    """Run ``work`` in the database, and retry after errors of the database.

    Args:
        attempts: maximum attempts, not counting those while the database is unavailable; None: no limit.

    Raises:
        ContentRefused: the content caused the error, or all attempts have failed.
    """
    tried = count(1)

    def judge(error: Exception) -> Setback | None:
        if _is_contents_fault(error):
            raise ContentRefused(reason_of(error)) from error
        if not isinstance(error, SQLAlchemyError):
            return None
        if next(tried) == attempts:
            raise ContentRefused(reason_of(error)) from error
        return Setback(reason_of(error), "trying again")

    return await worker.in_database(work, judge)


async def persist_each(
    worker: Worker,
    work: Callable[[Sequence[Item]], T],
    items: Sequence[Item],
    lost: Callable[[Item, str], None],
) -> list[T]:
    """Run ``work`` for all ``items`` together, or for each of them alone if the database refuses the group.

    ``lost`` is called with each item that fails alone and the reason. Return the return values of ``work``.
    """
    try:
        return [await persist(worker, partial(work, items), attempts=_FEW)]
    except ContentRefused as error:
        if len(items) == 1:
            lost(items[0], str(error))
            return []
    done: list[T] = []
    for item in items:
        try:
            done.append(await persist(worker, partial(work, [item]), attempts=1))
        except ContentRefused as error:
            lost(item, str(error))
    return done


def _is_contents_fault(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        return isinstance(error, DataError | IntegrityError) or _number(error) in _CONTENT
    # SQLAlchemy raises StatementError for a parameter that a statement cannot use.
    return isinstance(error, (StatementError, *_UNFIT_VALUES))


def _number(error: DBAPIError) -> object:
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments else None


def reason_of(error: Exception) -> str:
    """Describe the error without the statement and its thousands of values."""
    inner = error.orig if isinstance(error, StatementError) and error.orig is not None else error
    return f"{type(inner).__name__}: {inner}"[:500]
