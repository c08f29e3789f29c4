"""Whose fault a failed transaction is: the content's, which must not stop what follows, or the database's.

A batch is refused only for its content, since its sender then gives it up. A full disk, a database that is read only
or lacks a table refuses every batch, so it is waited for like one that is away. What may be lost, such as when a
monitor was seen, is not tried for ever, and of what was written together only what is to blame is lost.
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
"""Attempts, when what is to be written may be lost."""

_CONTENT: Final = {
    1153: "a value is larger than the server takes at once",
    1267: "a character that the column's character set lacks",
    1270: "the same, of three values",
    1271: "the same, of several values",
    1292: "a time or number that is none",
    1300: "bytes that are no characters",
    1301: "a result is larger than the server takes at once",
    1411: "a value that its function does not take",
    1690: "a number out of range",
    3140: "MySQL: a text that is no JSON",
    3156: "MySQL: a JSON value of another type than its column",
    3665: "MySQL: a value is missing in a JSON text",
    3666: "MySQL: a JSON value of another type than its column",
    3669: "MySQL: a JSON value out of its column's range",
    3819: "MySQL: a CHECK constraint",
    4025: "MariaDB: a CHECK constraint",
    4174: "MariaDB: a JSON value of another type than its column",
    4178: "MariaDB: a value is missing in a JSON text",
}
"""Errors of values that the driver does not tell from others; by number, with the reason."""

_UNFIT_VALUES: Final = (ValueError, TypeError, ArithmeticError, LookupError)


class ContentRefused(Exception):
    """The database, or our own code, cannot take these values, now or later; the cause says why."""


async def persist(worker: Worker, work: Callable[[], T], *, attempts: int | None = None) -> T:
    """Runs ``work`` in the database, again and again while that is the database's fault.

    Args:
        attempts: how often at most, unless the database is away; None: without end.

    Raises:
        ContentRefused: it is the content's, or it has failed so often.
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
    """Runs ``work`` for all ``items`` together; when the database refuses, for each of them alone.

    ``lost`` is told of each that was refused also then, and why. Returns what ``work`` returned.
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
    # What SQLAlchemy says of a parameter that has no place in a statement.
    return isinstance(error, (StatementError, *_UNFIT_VALUES))


def _number(error: DBAPIError) -> object:
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments else None


def reason_of(error: Exception) -> str:
    """What went wrong, without the statement and its thousands of values."""
    inner = error.orig if isinstance(error, StatementError) and error.orig is not None else error
    return f"{type(inner).__name__}: {inner}"[:500]
