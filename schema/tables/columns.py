"""Define column types and defaults that differ between MySQL, MariaDB and SQLite."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine


def _on_mysql(generic: TypeEngine[Any], own: TypeEngine[Any]) -> Any:
    return generic.with_variant(own, "mysql", "mariadb")


def int_u() -> Any:
    """Return ``int unsigned``."""
    return _on_mysql(sa.Integer(), mysql.INTEGER(unsigned=True))


def bigint_u() -> Any:
    """Return ``bigint unsigned``; on SQLite an integer, the only type with automatic increment."""
    return _on_mysql(sa.BigInteger(), mysql.BIGINT(unsigned=True)).with_variant(sa.Integer(), "sqlite")


def bigint() -> Any:
    """Return ``bigint``; on SQLite an integer, the only type with automatic increment."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def tinyint_u() -> Any:
    """Return ``tinyint unsigned``."""
    return _on_mysql(sa.SmallInteger(), mysql.TINYINT(unsigned=True))


def mediumint() -> Any:
    """Return ``mediumint``, signed."""
    return _on_mysql(sa.Integer(), mysql.MEDIUMINT())


def boolean() -> Any:
    """Return ``tinyint(1)``."""
    return _on_mysql(sa.Boolean(), mysql.TINYINT(display_width=1))


def datetime6() -> Any:
    """Return ``datetime(6)``: microseconds, UTC without a zone."""
    return _on_mysql(sa.DateTime(), mysql.DATETIME(fsp=6))


def ulid() -> Any:
    """Return 26 characters that are compared byte by byte."""
    return _on_mysql(sa.String(26), mysql.CHAR(26, charset="ascii", collation="ascii_bin"))


def text_bin(length: int) -> Any:
    """Return a string that is compared byte by byte, for topics and hashes."""
    return _on_mysql(sa.String(length), mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"))


class now_on_update(ColumnElement[Any]):
    """The default of ``modified_on``: the current time, and on MySQL also at every update."""

    inherit_cache = True


@compiles(now_on_update)
def _plain_now(element: now_on_update, compiler: Any, **kw: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(now_on_update, "mysql")
@compiles(now_on_update, "mariadb")
def _mysql_now(element: now_on_update, compiler: Any, **kw: Any) -> str:
    return "CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP"


def modified_on(name: str = "modified_on") -> sa.Column[Any]:
    """Return a ``timestamp`` column, set on insert and update (on SQLite by SQLAlchemy, so only by its updates)."""
    return sa.Column(
        name,
        _on_mysql(sa.DateTime(), mysql.TIMESTAMP()),
        nullable=False,
        server_default=now_on_update(),
        onupdate=sa.func.current_timestamp(),
    )


def blob(length: int) -> Any:
    """Return a binary type for more than the 65 535 bytes of MySQL's ``blob``."""
    return _on_mysql(sa.LargeBinary(length), mysql.MEDIUMBLOB())
