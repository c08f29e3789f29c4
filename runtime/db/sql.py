"""Parts of statements that are made of columns. In hand-written SQL their names are quoted, as all names are.

MySQL and MariaDB reserve other words from version to version: `stored`, `rank` and `system` are some of them.
"""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa


def column_list(table: str, columns: Iterable[str]) -> str:
    """These columns of ``table``."""
    return ", ".join(f"`{table}`.`{column}`" for column in columns)


def assignment_list(table: str, source: str, columns: Iterable[str]) -> str:
    """What gives these columns of ``table`` their values in ``source``."""
    return ", ".join(f"`{table}`.`{column}` = `{source}`.`{column}`" for column in columns)


def as_stored(column: sa.Column[Any]) -> sa.ColumnElement[str]:
    """The column as it is stored, without a type that would refuse what should not be there."""
    return sa.type_coerce(column, sa.Text)
