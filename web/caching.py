"""Say for how long an answer may be kept, and by which tag a client recognises it. Pure."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

USUAL: Final = "s-maxage=90,max-age=120"
ONE_ROW: Final = "s-maxage=60,max-age=35"
RESTING: Final = "s-maxage=260,max-age=360"
"""For a history that has no rows, or none of the last hours: it will hardly change soon."""
ERRORS: Final = "public,max-age=240"
FOREVER: Final = "public,max-age=31536000,immutable"
"""For files whose address changes with their content."""

_RESTS_AFTER: Final = timedelta(hours=8)


def of_history(times: Sequence[datetime], now: datetime) -> str:
    """Return the header ``Cache-Control`` of an answer with rows of these times, in any order of time."""
    if len(times) == 1:
        return ONE_ROW
    newest = max(times, default=None)
    return RESTING if newest is None or now - newest > _RESTS_AFTER else USUAL


def etag(body: bytes) -> str:
    """Return the header ``ETag`` of a body."""
    return f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'


def is_known(given: str | None, tag: str) -> bool:
    """Return whether the client's ``If-None-Match`` names this tag."""
    if given is None:
        return False
    known = (part.strip().removeprefix("W/") for part in given.split(","))
    return any(part in ("*", tag) for part in known)
