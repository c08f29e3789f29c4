"""Many rows as one parameter of a statement: a JSON text, which MySQL and MariaDB take apart with JSON_TABLE.

A statement for each row costs ten times as much in round trips, and a parameter for each value a third more in the
driver. SQLite runs in our own process, where neither matters, and reads numbers in JSON less exactly than it stores
them.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

Value = int | float | str | None


def json_rows(rows: Iterable[Sequence[Value]]) -> str:
    """``rows`` as an array of arrays. Numbers keep every digit."""
    return msgspec.json.encode(list(rows)).decode()


def json_time(moment: datetime | None) -> str | None:
    """A time without zone, as JSON_TABLE reads it."""
    return None if moment is None else str(moment)
