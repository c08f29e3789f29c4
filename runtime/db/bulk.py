"""Build bulk statements from the tables, so that each statement names its columns once for all databases.

MySQL and MariaDB receive the rows as one JSON text, an array of arrays, which JSON_TABLE unpacks, and return rows as
one text of JSON_ARRAYAGG. One statement per row costs ten times as much in round trips, and one parameter or column per
value twice as much in the driver. SQLite runs in the process itself, where neither matters, and its JSON numbers are
less exact than its columns: there rows are written one by one, and only keys are read from JSON.

Statements are built once, at import, since building one takes longer than executing many. The fields of a row are
columns of its table, by name. All identifiers are quoted, since the reserved words of MySQL and MariaDB differ between
versions; `stored`, `rank` and `system` are some of them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.mysql.base import MySQLDialect, MySQLIdentifierPreparer
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles

Row = TypeVar("Row", bound=NamedTuple)

Value = bool | int | float | str | datetime | None


# ---- writing -----------------------------------------------------------------------------------------------------


class BulkInsert(Generic[Row]):
    """Bulk insert into a table. Generated ids are in the order of the rows.

    Args:
        row: has a field for each column that differs between rows.
        common: columns with one value for all rows, which is a parameter of :meth:`execute`.

    A duplicate key is an error; see also :func:`insert_or_ignore` and :func:`upsert`.
    """

    def __init__(self, table: sa.Table, row: type[Row], common: Sequence[str] = ()) -> None:
        into = ", ".join(f"`{table.c[name].name}`" for name in (*row._fields, *common))
        values = ", ".join([*(f"`rows`.`{name}`" for name in row._fields), *(f":{name}" for name in common)])
        rows = _rows_written(table, row._fields)
        self._text = f"INSERT INTO `{table.name}` ({into}) SELECT {values} FROM {rows}"  # noqa: S608  # our own names
        self.mysql: sa.TextClause = sa.text(self._text)
        self.sqlite: sa.Insert = sa.insert(table)

    def execute(self, connection: Connection, rows: Iterable[Row], **common: Value) -> None:
        """Insert ``rows`` in their order."""
        if not (added := list(rows)):
            return
        if connection.dialect.name == "sqlite":
            connection.execute(self.sqlite, [row._asdict() | common for row in added])
        else:
            connection.execute(self.mysql, {"rows": json_rows(added), **common})

    def _on_duplicate(self, mysql_set: str, on_sqlite: sa.Insert) -> "BulkInsert[Row]":
        self.mysql = sa.text(f"{self._text} ON DUPLICATE KEY UPDATE {mysql_set}")
        self.sqlite = on_sqlite
        return self


def insert_or_ignore(table: sa.Table, row: type[Row], common: Sequence[str] = ()) -> BulkInsert[Row]:
    """Build an insert that ignores rows with a duplicate key. Unlike with IGNORE, other errors are raised."""
    name = f"`{table.name}`.`{row._fields[0]}`"
    insert = BulkInsert(table, row, common)
    return insert._on_duplicate(f"{name} = {name}", sqlite.insert(table).on_conflict_do_nothing())


def upsert(
    table: sa.Table, row: type[Row], common: Sequence[str] = (), *, key: Sequence[str], update: Sequence[str]
) -> BulkInsert[Row]:
    """Build an insert that updates some columns of rows with a duplicate unique ``key``."""
    insert, on_sqlite = BulkInsert(table, row, common), sqlite.insert(table)
    replaced = {name: on_sqlite.excluded[name] for name in update}
    return insert._on_duplicate(
        ", ".join(f"`{table.name}`.`{name}` = `rows`.`{name}`" for name in update),
        on_sqlite.on_conflict_do_update(index_elements=key, set_=replaced),
    )


class BulkUpdate(Generic[Row]):
    """Bulk update of a table, with row locks in the order of the given rows.

    Args:
        row: its fields are the columns of ``key``, which select the row to update, and the columns with new values.
        also: other columns to set: to a field of the row, or to an expression on the updated row, whose parameters are
            parameters of :meth:`execute`.
    """

    def __init__(
        self,
        table: sa.Table,
        row: type[Row],
        *,
        key: Sequence[str],
        also: Mapping[str, str | sa.ColumnElement[Any]] | None = None,
    ) -> None:
        values = {name: name for name in row._fields if name not in key} | dict(also or {})
        self._names = [_PARAMETER + name for name in row._fields]
        assigned = ", ".join(f"`{table.name}`.`{name}` = {_on_mysql(value)}" for name, value in values.items())
        rows = _rows_written(table, row._fields, key)
        joined = _joined(table, key)
        self.mysql = sa.text(f"UPDATE {rows} STRAIGHT_JOIN {joined} SET {assigned}")  # noqa: S608  # our own names
        assignments = {name: _on_sqlite(value) for name, value in values.items()}
        self.sqlite = sa.update(table).where(*_found(table, key)).values(assignments)

    def execute(self, connection: Connection, rows: Iterable[Row], **parameters: Value) -> int:
        """Update those of ``rows`` that exist, and return their number."""
        if not (updated := list(rows)):
            return 0
        if connection.dialect.name == "sqlite":
            bound = [dict(zip(self._names, row, strict=True)) | parameters for row in updated]
            return connection.execute(self.sqlite, bound).rowcount
        return connection.execute(self.mysql, {"rows": json_rows(updated), **parameters}).rowcount


class BulkDelete:
    """Bulk delete from a table by primary key, in the order of the given keys.

    It uses no IN list: MySQL may scan the whole table for one, MariaDB does so for pairs, and either then waits for row
    locks of other workers.
    """

    def __init__(self, table: sa.Table) -> None:
        key = table.primary_key.columns.keys()
        rows, joined = _rows_written(table, key, key), _joined(table, key)
        self.mysql = sa.text(f"DELETE `{table.name}` FROM {rows} STRAIGHT_JOIN {joined}")
        self._names = [_PARAMETER + name for name in key]
        self.sqlite = sa.delete(table).where(*_found(table, key))

    def execute(self, connection: Connection, keys: Iterable[Sequence[Value]]) -> None:
        """Delete the rows with these keys."""
        if not (gone := [tuple(key) for key in keys]):
            return
        if connection.dialect.name == "sqlite":
            connection.execute(self.sqlite, [dict(zip(self._names, key, strict=True)) for key in gone])
        else:
            connection.execute(self.mysql, {"rows": json_rows(gone)})


_PARAMETER: Final = "row_"
"""Prefix of the parameters' names in updates and deletes, where SQLAlchemy reserves the names of columns."""


def _joined(table: sa.Table, key: Iterable[str]) -> str:
    same = " AND ".join(f"`{table.name}`.`{table.c[name].name}` = `rows`.`{name}`" for name in key)
    return f"`{table.name}` ON {same}"


def _found(table: sa.Table, key: Iterable[str]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == sa.bindparam(_PARAMETER + name) for name in key]


def _on_mysql(value: str | sa.ColumnElement[Any]) -> str:
    return f"`rows`.`{value}`" if isinstance(value, str) else str(value.compile(dialect=_MYSQL))


def _on_sqlite(value: str | sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.bindparam(_PARAMETER + value) if isinstance(value, str) else value


# ---- reading -----------------------------------------------------------------------------------------------------


class RowsTable(sa.TableClause):
    """Table of keys that are a parameter of a query, with the table's name; see :func:`rows_table`."""

    inherit_cache = True


def rows_table(name: str, *columns: sa.Column[Any]) -> RowsTable:
    """Build a table whose rows are the parameter ``name``: :func:`json_rows`, in the order of ``columns``.

    Join it first, in a query with the fixed join order of :func:`in_this_order`.
    """
    for column in columns:
        if not isinstance(column.type, sa.Integer | sa.String):
            raise TypeError(f"{column}: only whole numbers and texts are the same in the JSON of all databases")
    return RowsTable(name, *(sa.column(column.name, column.type) for column in columns))


@compiles(RowsTable, "mysql")
@compiles(RowsTable, "mariadb")
def _rows_on_mysql(rows: RowsTable, compiler: Any, **kw: Any) -> str:
    if not kw.get("asfrom"):
        return str(compiler.visit_table(rows, **kw))
    compiler.visit_table(rows, **kw)  # so that SQLAlchemy's check for unjoined tables finds it
    types = {column.name: _json_type(column, key=True) for column in rows.columns}
    return _json_table(rows.name, compiler.process(sa.bindparam(rows.name)), types)


@compiles(RowsTable, "sqlite")
def _rows_on_sqlite(rows: RowsTable, compiler: Any, **kw: Any) -> str:
    if not kw.get("asfrom"):
        return str(compiler.visit_table(rows, **kw))
    compiler.visit_table(rows, **kw)
    columns = ", ".join(f"JSON_EXTRACT(`value`, '$[{n}]') AS `{column.name}`" for n, column in enumerate(rows.columns))
    parameter = compiler.process(sa.bindparam(rows.name))
    return f"(SELECT {columns} FROM JSON_EACH({parameter})) AS `{rows.name}`"  # noqa: S608  # our own names


def in_this_order(query: sa.Select[Any]) -> sa.Select[Any]:
    """Fix the join order of ``query`` to the written one, from the few rows to the large table.

    SQLite chooses this order by itself.
    """
    return query.prefix_with("STRAIGHT_JOIN", dialect="mysql").prefix_with("STRAIGHT_JOIN", dialect="mariadb")


def by_index(query: sa.Select[Any], table: sa.FromClause, index: str) -> sa.Select[Any]:
    """Force ``query`` to read ``table`` by this index.

    Statistics of a growing table sometimes suggest another index, with which a query reads the log of weeks instead
    of minutes.
    """
    hint = f"FORCE INDEX (`{index}`)"
    return query.with_hint(table, hint, "mysql").with_hint(table, hint, "mariadb")


class BulkSelect(Generic[Row]):
    """Query whose rows are returned as one JSON text. Its columns are those of ``row``, in their order.

    Times and dates may be text: see :func:`stored_time` and :func:`stored_day`.
    """

    def __init__(self, query: sa.Select[Any], row: type[Row]) -> None:
        columns = query.selected_columns
        if (names := columns.keys()) != list(row._fields):
            raise ValueError(f"{row.__name__} has {row._fields}, its query {names}")
        as_text = sa.func.json_arrayagg(sa.func.json_array(*columns))
        self.mysql = query.with_only_columns(as_text, maintain_column_froms=True)
        self.sqlite = query
        self._row = row
        self._rows: msgspec.json.Decoder[list[Row]] = msgspec.json.Decoder(list[row])  # type: ignore[valid-type]  # to mypy, a variable

    def rows(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows of the query, unordered."""
        if connection.dialect.name == "sqlite":
            return [self._row._make(row) for row in connection.execute(self.sqlite, parameters)]
        text: str | None = connection.scalar(self.mysql, parameters)
        return [] if text is None else self._rows.decode(text)


def as_stored(column: sa.Column[Any]) -> sa.ColumnElement[str]:
    """Return the column as text, without a type that would reject invalid values."""
    return sa.type_coerce(column, sa.Text)


def stored_time(stored: datetime | str | None) -> datetime | None:
    """Parse a time from JSON; None if it is invalid, such as 0000-00-00, which old tables contain.

    A value that is a time already, as in SQLite's rows, is returned unchanged.
    """
    if not isinstance(stored, str):
        return stored
    try:
        return datetime.fromisoformat(stored)
    except ValueError:
        return None


def stored_day(stored: date | str | None) -> date | None:
    """Parse a date from JSON. 0000-00-00 becomes the earliest date, as in the database's comparisons."""
    if not isinstance(stored, str):
        return stored
    try:
        return date.fromisoformat(stored)
    except ValueError:
        return date.min


# ---- the text ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JsonText:
    """JSON parameter of a statement. :func:`runtime.db.engine.open_database` registers it with the drivers."""

    utf8: bytes

    def __str__(self) -> str:
        return self.utf8.decode()


def json_rows(rows: Iterable[Value | Sequence[Value]]) -> JsonText:
    """Encode ``rows`` as an array of arrays, or of values. Numbers keep every digit; times have no zone."""
    return JsonText(msgspec.json.encode(list(rows)))


def mysql_literal(text: JsonText, mapping: Any = None) -> str:
    """Encode ``text`` as a literal, for PyMySQL, whose encoders have these two parameters.

    A hexadecimal literal means the same in every ``sql_mode``, needs no escaping, and takes a tenth of the time of
    escaping quotes.
    """
    return f"_utf8mb4 X'{text.utf8.hex()}'"


def _json_table(name: str, parameter: str, types: Mapping[str, str], on_error: str = "") -> str:
    fields = ", ".join(f"`{column}` {type_} PATH '$[{n}]'{on_error}" for n, (column, type_) in enumerate(types.items()))
    return f"JSON_TABLE({parameter}, '$[*]' COLUMNS ({fields})) AS `{name}`"


def _rows_written(table: sa.Table, columns: Iterable[str], key: Collection[str] = ()) -> str:
    types = {name: _json_type(table.c[name], key=name in key) for name in columns}
    # Otherwise MySQL would write NULL for a value that does not fit its type.
    return _json_table("rows", ":rows", types, " ERROR ON ERROR")


def _json_type(column: sa.ColumnClause[Any], *, key: bool) -> str:
    """Return a type wider than the column's, so that a value that is too large fails in the column with an error.

    Otherwise MariaDB silently converts -1 to 0 for an unsigned type, replaces characters missing in the character set
    by ?, and truncates text. For a TEXT column there is no wider type, since MariaDB would store the remainder of a
    text of more than 64 KiB. A key keeps its column's character set, so that an index is used; an invalid key then
    matches no row.
    """
    match own := column.type.dialect_impl(_MYSQL):
        case sa.BigInteger():
            return "BIGINT UNSIGNED" if getattr(own, "unsigned", False) else "BIGINT"
        case sa.Integer():
            return "BIGINT"
        case sa.Float():
            return "DOUBLE"
        case sa.DateTime():
            digits = getattr(own, "fsp", None)
            return f"DATETIME({digits})" if digits else "DATETIME"
        case sa.String():
            charset, collation = getattr(own, "charset", None), getattr(own, "collation", None)
            return f"TEXT CHARACTER SET {charset} COLLATE {collation}".upper() if key and charset else "TEXT"
    raise TypeError(f"{column}: this type is not supported in JSON rows")


class _AllQuoted(MySQLIdentifierPreparer):
    def quote(self, ident: str, force: Any = None) -> str:
        return str(self.quote_identifier(ident))


class _Dialect(MySQLDialect):
    """Dialect for fragments of :func:`sqlalchemy.text`: all identifiers quoted, parameters as ``:name``."""

    preparer = _AllQuoted
    supports_statement_cache = True


_MYSQL: Final = _Dialect(paramstyle="named")
