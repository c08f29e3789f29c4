"""Find the foreign keys that refer to a table, since referenced rows cannot be removed.

The pool has tables that this project does not define, such as those of archivers, which store their position.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection


@dataclass(frozen=True, slots=True)
class Referrer:
    """A foreign key column that prevents the removal of the rows to which it refers."""

    table: str
    column: str
    key: sa.Column[Any]
    """The referenced column."""
    schema: str | None = None
    """Database of the table, if it is another one."""

    def refers(self) -> sa.ColumnElement[bool]:
        """Return the condition that it refers to the row of the outer query."""
        column: sa.ColumnClause[Any] = sa.column(self.column)
        table = sa.table(self.table, column, schema=self.schema).alias("referring")
        return sa.exists().where(table.c[self.column] == self.key).correlate(self.key.table)

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


def referrers_of(connection: Connection, table: sa.Table) -> tuple[Referrer, ...]:
    """Return all referrers of ``table`` that the database account may see."""
    found = _on_sqlite(connection, table) if connection.dialect.name == "sqlite" else _on_mysql(connection, table)
    return tuple(sorted(found, key=str))


def _on_sqlite(connection: Connection, table: sa.Table) -> list[Referrer]:
    inspector = sa.inspect(connection)
    return [
        Referrer(name, column, table.c[referred])
        for (_, name), keys in inspector.get_multi_foreign_keys().items()
        for key in keys
        if key["referred_table"] == table.name and key["options"].get("ondelete") not in ("CASCADE", "SET NULL")
        for column, referred in zip(key["constrained_columns"], key["referred_columns"], strict=True)
        if name is not None
    ]


def _on_mysql(connection: Connection, table: sa.Table) -> list[Referrer]:
    rows = connection.execute(_REFERRERS, {"name": table.name})
    return [
        Referrer(name, column, table.c[referred], None if here else schema)
        for schema, here, name, column, referred in rows
    ]


_REFERRERS = sa.text("""
    SELECT `used`.`TABLE_SCHEMA`, `used`.`TABLE_SCHEMA` = DATABASE(), `used`.`TABLE_NAME`, `used`.`COLUMN_NAME`,
        `used`.`REFERENCED_COLUMN_NAME`
    FROM `information_schema`.`KEY_COLUMN_USAGE` AS `used`
    JOIN `information_schema`.`REFERENTIAL_CONSTRAINTS` AS `rule`
        ON `rule`.`CONSTRAINT_SCHEMA` = `used`.`CONSTRAINT_SCHEMA`
        AND `rule`.`CONSTRAINT_NAME` = `used`.`CONSTRAINT_NAME` AND `rule`.`TABLE_NAME` = `used`.`TABLE_NAME`
    WHERE `used`.`REFERENCED_TABLE_SCHEMA` = DATABASE() AND `used`.`REFERENCED_TABLE_NAME` = :name
        AND `rule`.`DELETE_RULE` NOT IN ('CASCADE', 'SET NULL')
""")
