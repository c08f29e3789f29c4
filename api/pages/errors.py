"""Turn every error of a page into one that tells the person what has happened, and what to do."""

import logging
import traceback
from http import HTTPStatus
from pathlib import Path
from typing import Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from runtime.clock import ClockDoubted
from runtime.db.retry import DatabaseUnavailable, Reaction, reaction_to
from runtime.log import RateLimitedLog

log = logging.getLogger(__name__)
_defects: Final = RateLimitedLog(log)
"""Used in the event loop only."""

UNAVAILABLE: Final = "Not available right now"
WENT_WRONG: Final = "Something went wrong"


class PageError(Exception):
    """The request is refused with a page of its own.

    Args:
        again: address of the page on which to try again.
    """

    def __init__(
        self, status: int, title: str, *sentences: str, again: str = "", retry_seconds: int | None = None
    ) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.sentences = sentences
        self.again = again
        self.headers = {} if retry_seconds is None else {"Retry-After": str(retry_seconds)}


class LoginNeeded(Exception):
    """The person must log in first, and then sees the page at ``goto``."""

    def __init__(self, goto: str) -> None:
        super().__init__("login needed")
        self.goto = goto


def no_such_page(status: int = 404) -> PageError:
    """Return the error of an address that no page has."""
    return PageError(status, "There is no such page", "Its address is wrong, or it no longer exists.")


def page_error(error: Exception, route: str) -> PageError:
    """Return what to tell the person about an error; log it if it is a defect.

    Args:
        route: its path with the names of its parameters, since their values may be secrets.
    """
    match error:
        case PageError():
            return error
        case RequestValidationError():
            return PageError(
                422,
                "This form cannot be accepted",
                "Something in it is missing or too long. Nothing was changed.",
                "Go back, correct it, and try again.",
            )
        case HTTPException():
            return PageError(error.status_code, HTTPStatus(error.status_code).phrase, "Nothing was changed.")
        case ClockDoubted():
            return PageError(503, UNAVAILABLE, "The clock of this server is not trusted. Try again in a minute.")
    if isinstance(error, DatabaseUnavailable) or reaction_to(error) is not Reaction.DEFECT:
        return PageError(503, UNAVAILABLE, "The pool's database does not answer. Try again in a minute.")
    _defects.log(logging.ERROR, route, "page %s: %s", route, _without_values(error))
    return PageError(500, WENT_WRONG, "The error was recorded. Try again later.")


def _without_values(error: Exception) -> str:
    """Describe an error by its type and place, since its text may contain what was sent."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return f"{type(error).__name__} at " + " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in frames[::-1])
