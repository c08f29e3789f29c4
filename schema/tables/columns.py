"""Column types and defaults that MySQL, MariaDB and SQLite must each spell in their own way."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine


def _on_mysql(generic: TypeEngine[Any], own: TypeEngine[Any]) -> Any:
    return generic.with_variant(own, "mysql", "mariadb")


def int_u() -> Any:
    """``int unsigned``."""
    return _on_mysql(sa.Integer(), mysql.INTEGER(unsigned=True))


def bigint_u() -> Any:
    """``bigint unsigned``; on SQLite an integer, since only that increments by itself."""
    return _on_mysql(sa.BigInteger(), mysql.BIGINT(unsigned=True)).with_variant(sa.Integer(), "sqlite")


def bigint() -> Any:
    """``bigint``; on SQLite an integer, since only that increments by itself."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def tinyint_u() -> Any:
    """``tinyint unsigned``."""
    return _on_mysql(sa.SmallInteger(), mysql.TINYINT(unsigned=True))


def mediumint() -> Any:
    """``mediumint``, signed."""
    return _on_mysql(sa.Integer(), mysql.MEDIUMINT())


def boolean() -> Any:
    """``tinyint(1)``."""
    return _on_mysql(sa.Boolean(), mysql.TINYINT(display_width=1))


def datetime6() -> Any:
    """``datetime(6)``: microseconds, UTC without a zone."""
    return _on_mysql(sa.DateTime(), mysql.DATETIME(fsp=6))


def ulid() -> Any:
    """26 characters compared byte by byte."""
    return _on_mysql(sa.String(26), mysql.CHAR(26, charset="ascii", collation="ascii_bin"))


def text_bin(length: int) -> Any:
    """A string compared byte by byte, as topics and hashes are."""
    return _on_mysql(sa.String(length), mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"))


class now_on_update(ColumnElement[Any]):
    """Default of ``modified_on``: now, and on MySQL again at every update."""

    inherit_cache = True


@compiles(now_on_update)
def _plain_now(element: now_on_update, compiler: Any, **kw: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(now_on_update, "mysql")
@compiles(now_on_update, "mariadb")
def _mysql_now(element: now_on_update, compiler: Any, **kw: Any) -> str:
    return "CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP"


def modified_on(name: str = "modified_on") -> sa.Column[Any]:
    """``timestamp``, now by default and on every update (on SQLite by SQLAlchemy, so only for its own updates)."""
    return sa.Column(
        name,
        _on_mysql(sa.DateTime(), mysql.TIMESTAMP()),
        nullable=False,
        server_default=now_on_update(),
        onupdate=sa.func.current_timestamp(),
    )


def blob(length: int) -> Any:
    """Bytes, more than the 64 KiB less one that MySQL's ``blob`` holds."""
    return _on_mysql(sa.LargeBinary(length), mysql.MEDIUMBLOB())
