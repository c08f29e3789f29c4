"""Statements for many rows at once, made from the tables: each names its columns once, for all databases.

MySQL and MariaDB get the rows as one JSON text, an array of arrays, which they take apart with JSON_TABLE, and make one
with JSON_ARRAYAGG. A statement for each row costs ten times as much in round trips, and a parameter or a column for
each value twice as much in the driver. SQLite runs in our own process, where neither matters, and reads and writes
numbers in JSON less exactly than it stores them: it writes row by row, and takes only keys out of such a text.

Statements are made once, when a module is loaded: to make one takes longer than many of them run. The fields of a row
are columns of its table, by their names. In what is written here all names are quoted, since MySQL and MariaDB reserve
other words from version to version: `stored`, `rank` and `system` are some of them.
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
    """Adds rows to a table. Ids that the database gives them are in the order of the rows.

    Args:
        row: has a field for each column that differs from row to row.
        common: columns with one value for all rows, which :meth:`execute` is given.

    A row whose key is there already is an error, but see :func:`insert_or_ignore` and :func:`upsert`.
    """

    def __init__(self, table: sa.Table, row: type[Row], common: Sequence[str] = ()) -> None:
        into = ", ".join(f"`{table.c[name].name}`" for name in (*row._fields, *common))
        values = ", ".join([*(f"`rows`.`{name}`" for name in row._fields), *(f":{name}" for name in common)])
        rows = _rows_written(table, row._fields)
        self._text = f"INSERT INTO `{table.name}` ({into}) SELECT {values} FROM {rows}"  # noqa: S608  # our own names
        self.mysql: sa.TextClause = sa.text(self._text)
        self.sqlite: sa.Insert = sa.insert(table)

    def execute(self, connection: Connection, rows: Iterable[Row], **common: Value) -> None:
        """Adds ``rows`` in their order."""
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
    """An insert that leaves rows alone whose key is there already. Other errors are errors, unlike with IGNORE."""
    name = f"`{table.name}`.`{row._fields[0]}`"
    insert = BulkInsert(table, row, common)
    return insert._on_duplicate(f"{name} = {name}", sqlite.insert(table).on_conflict_do_nothing())


def upsert(
    table: sa.Table, row: type[Row], common: Sequence[str] = (), *, key: Sequence[str], update: Sequence[str]
) -> BulkInsert[Row]:
    """An insert that updates some columns where the unique ``key`` is there already."""
    insert, on_sqlite = BulkInsert(table, row, common), sqlite.insert(table)
    replaced = {name: on_sqlite.excluded[name] for name in update}
    return insert._on_duplicate(
        ", ".join(f"`{table.name}`.`{name}` = `rows`.`{name}`" for name in update),
        on_sqlite.on_conflict_do_update(index_elements=key, set_=replaced),
    )


class BulkUpdate(Generic[Row]):
    """Updates rows of a table, which it locks in the order of the rows given.

    Args:
        row: its fields are the columns of ``key``, which find the row to update, and those that it gives new values.
        also: other columns that are set: to a field of the row, or to an expression of the row that is updated, whose
            parameters :meth:`execute` is given.
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
        """Updates those of ``rows`` that there are, and returns how many these are."""
        if not (updated := list(rows)):
            return 0
        if connection.dialect.name == "sqlite":
            bound = [dict(zip(self._names, row, strict=True)) | parameters for row in updated]
            return connection.execute(self.sqlite, bound).rowcount
        return connection.execute(self.mysql, {"rows": json_rows(updated), **parameters}).rowcount


class BulkDelete:
    """Deletes rows of a table by their primary key, in the order of the keys given.

    Not by a list of keys: for one MySQL may read the whole table, MariaDB does so for pairs, and either then waits for
    rows that another worker holds.
    """

    def __init__(self, table: sa.Table) -> None:
        key = table.primary_key.columns.keys()
        rows, joined = _rows_written(table, key, key), _joined(table, key)
        self.mysql = sa.text(f"DELETE `{table.name}` FROM {rows} STRAIGHT_JOIN {joined}")
        self._names = [_PARAMETER + name for name in key]
        self.sqlite = sa.delete(table).where(*_found(table, key))

    def execute(self, connection: Connection, keys: Iterable[Sequence[Value]]) -> None:
        """Deletes the rows with these keys."""
        if not (gone := [tuple(key) for key in keys]):
            return
        if connection.dialect.name == "sqlite":
            connection.execute(self.sqlite, [dict(zip(self._names, key, strict=True)) for key in gone])
        else:
            connection.execute(self.mysql, {"rows": json_rows(gone)})


_PARAMETER: Final = "row_"
"""Begins the names of parameters in updates and deletes, where SQLAlchemy has those of columns for itself."""


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
    """Keys that are a parameter of a query, by the name of this table: see :func:`rows_table`."""

    inherit_cache = True


def rows_table(name: str, *columns: sa.Column[Any]) -> RowsTable:
    """A table to join others to, whose rows are the parameter ``name``: :func:`json_rows`, in the order of ``columns``.

    Joined first, in a query that :func:`in_this_order` holds to its order.
    """
    for column in columns:
        if not isinstance(column.type, sa.Integer | sa.String):
            raise TypeError(f"{column}: in JSON only whole numbers and texts are the same in all databases")
    return RowsTable(name, *(sa.column(column.name, column.type) for column in columns))


@compiles(RowsTable, "mysql")
@compiles(RowsTable, "mariadb")
def _rows_on_mysql(rows: RowsTable, compiler: Any, **kw: Any) -> str:
    if not kw.get("asfrom"):
        return str(compiler.visit_table(rows, **kw))
    compiler.visit_table(rows, **kw)  # for who looks whether all tables are joined
    types = {column.name: _json_type(column, key=True) for column in rows.columns}
    return _json_table(rows.name, compiler.process(sa.bindparam(rows.name)), types)


@compiles(RowsTable, "sqlite")
def _rows_on_sqlite(rows: RowsTable, compiler: Any, **kw: Any) -> str:
    if not kw.get("asfrom"):
        return str(compiler.visit_table(rows, **kw))
    compiler.visit_table(rows, **kw)
    taken = ", ".join(f"JSON_EXTRACT(`value`, '$[{n}]') AS `{column.name}`" for n, column in enumerate(rows.columns))
    parameter = compiler.process(sa.bindparam(rows.name))
    return f"(SELECT {taken} FROM JSON_EACH({parameter})) AS `{rows.name}`"  # noqa: S608  # our own names


def in_this_order(query: sa.Select[Any]) -> sa.Select[Any]:
    """``query``, with its tables joined in the order as written: from the few rows to the large table.

    SQLite finds that order by itself.
    """
    return query.prefix_with("STRAIGHT_JOIN", dialect="mysql").prefix_with("STRAIGHT_JOIN", dialect="mariadb")


def by_index(query: sa.Select[Any], table: sa.FromClause, index: str) -> sa.Select[Any]:
    """``query``, reading ``table`` by this index.

    Statistics of a growing table sometimes suggest another one, and then a query reads the log of weeks instead of
    minutes.
    """
    hint = f"FORCE INDEX (`{index}`)"
    return query.with_hint(table, hint, "mysql").with_hint(table, hint, "mariadb")


class BulkSelect(Generic[Row]):
    """A query whose rows come as one JSON text. Its columns are those of ``row``, in their order.

    Times and days may come as text: see :func:`stored_time` and :func:`stored_day`.
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
        """The rows that the query finds, in no order."""
        if connection.dialect.name == "sqlite":
            return [self._row._make(row) for row in connection.execute(self.sqlite, parameters)]
        text: str | None = connection.scalar(self.mysql, parameters)
        return [] if text is None else self._rows.decode(text)


def as_stored(column: sa.Column[Any]) -> sa.ColumnElement[str]:
    """The column as it is stored, without a type that would refuse what should not be there."""
    return sa.type_coerce(column, sa.Text)


def stored_time(stored: datetime | str | None) -> datetime | None:
    """A time of a row that came as JSON, whose texts may be no times: 0000-00-00, which old tables hold, is None.

    As a time, as SQLite's rows have them, it stays what it is.
    """
    if not isinstance(stored, str):
        return stored
    try:
        return datetime.fromisoformat(stored)
    except ValueError:
        return None


def stored_day(stored: date | str | None) -> date | None:
    """A day of such a row. 0000-00-00 is the first of all days, as it is where the database compares it."""
    if not isinstance(stored, str):
        return stored
    try:
        return date.fromisoformat(stored)
    except ValueError:
        return date.min


# ---- the text ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JsonText:
    """A parameter of a statement. :func:`runtime.db.engine.open_database` tells the drivers how to pass it on."""

    utf8: bytes

    def __str__(self) -> str:
        return self.utf8.decode()


def json_rows(rows: Iterable[Value | Sequence[Value]]) -> JsonText:
    """``rows`` as an array of arrays, or of values. Numbers keep every digit; times have no zone."""
    return JsonText(msgspec.json.encode(list(rows)))


def mysql_literal(text: JsonText, mapping: Any = None) -> str:
    """``text`` within a statement, for PyMySQL, whose encoders have these two arguments.

    In hexadecimal: it means the same in every ``sql_mode``, nothing in it can end it, and to write it takes a tenth of
    the time that looking for quotes takes.
    """
    return f"_utf8mb4 X'{text.utf8.hex()}'"


def _json_table(name: str, parameter: str, types: Mapping[str, str], on_error: str = "") -> str:
    taken = ", ".join(f"`{column}` {type_} PATH '$[{n}]'{on_error}" for n, (column, type_) in enumerate(types.items()))
    return f"JSON_TABLE({parameter}, '$[*]' COLUMNS ({taken})) AS `{name}`"


def _rows_written(table: sa.Table, columns: Iterable[str], key: Collection[str] = ()) -> str:
    types = {name: _json_type(table.c[name], key=name in key) for name in columns}
    # Or MySQL would write NULL where a value does not fit its type.
    return _json_table("rows", ":rows", types, " ERROR ON ERROR")


def _json_type(column: sa.ColumnClause[Any], *, key: bool) -> str:
    """A type that holds more than the column's does: what is too large then fails there, as any other value would.

    MariaDB makes 0 of -1 where no sign is, puts ? in the place of characters that a set lacks, and cuts texts off, all
    without an error; of a text of more than 64 KiB that goes into a TEXT it would even take the rest, so that nothing
    is wider there. A key of a character set of its own keeps it, so that an index is used; it finds nothing then.
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
    raise TypeError(f"{column}: no rows with such a column have been sent as JSON yet")


class _AllQuoted(MySQLIdentifierPreparer):
    def quote(self, ident: str, force: Any = None) -> str:
        return str(self.quote_identifier(ident))


class _Dialect(MySQLDialect):
    """For parts of statements of :func:`sqlalchemy.text`: all names quoted, parameters as ``:name``."""

    preparer = _AllQuoted
    supports_statement_cache = True


_MYSQL: Final = _Dialect(paramstyle="named")
