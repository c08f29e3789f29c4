"""Whose fault a failed transaction is: the content's, which must not stop what follows, or the database's.

A batch is refused only for its content, since its sender then gives it up. A full disk, a database that is read only
or lacks a table refuses every batch, so it is waited for like one that is away.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from runtime.log import Repeating
from runtime.worker import Worker

log = logging.getLogger(__name__)
T = TypeVar("T")

_AGAIN: Final = 1.0
"""Seconds until the next attempt."""

_UNFIT_VALUES: Final = (ValueError, TypeError, ArithmeticError, LookupError)


class ContentRefused(Exception):
    """The database, or our own code, cannot take these values, now or later; the cause says why."""


async def persist(worker: Worker, work: Callable[[], T]) -> T:
    """Runs ``work`` in the database, again and again while that is the database's fault.

    Raises:
        ContentRefused: it is the content's.
    """
    complaint = Repeating(log)
    try:
        while True:
            try:
                result = await worker.in_database(work)
            except Exception as error:
                if _is_contents_fault(error):
                    raise ContentRefused(reason_of(error)) from error
                if not isinstance(error, SQLAlchemyError):
                    raise
                worker.contact.failed(complaint, reason_of(error))
                complaint.warning("database: %s; trying again", reason_of(error))
            else:
                worker.contact.succeeded(complaint)
                return result
            await asyncio.sleep(_AGAIN)
    finally:
        worker.contact.gave_up(complaint)


def _is_contents_fault(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        return isinstance(error, DataError | IntegrityError)
    # What SQLAlchemy says of a parameter that has no place in a statement.
    return isinstance(error, (StatementError, *_UNFIT_VALUES))


def reason_of(error: Exception) -> str:
    """What went wrong, without the statement and its thousands of values."""
    inner = error.orig if isinstance(error, StatementError) and error.orig is not None else error
    return f"{type(inner).__name__}: {inner}"[:500]
