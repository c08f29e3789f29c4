"""Parts of hand-written SQL that are made of columns: their names are quoted, as all names in such SQL are.

MySQL and MariaDB reserve other words from version to version: `stored`, `rank` and `system` are some of them.
"""

from collections.abc import Iterable


def column_list(table: str, columns: Iterable[str]) -> str:
    """These columns of ``table``."""
    return ", ".join(f"`{table}`.`{column}`" for column in columns)


def assignment_list(table: str, source: str, columns: Iterable[str]) -> str:
    """What gives these columns of ``table`` their values in ``source``."""
    return ", ".join(f"`{table}`.`{column}` = `{source}`.`{column}`" for column in columns)
