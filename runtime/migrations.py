"""Brings a database to the current version of the tables, also one that already holds the pool's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, Engine

import schema
from runtime.database import reading

_SCRIPTS: Final = Path(schema.__file__).parent / "migrations"
_LOCK: Final = "ntppool_monitor_migrations"
_LOCK_WAIT: Final = 50  # seconds; shorter than the driver waits for an answer


class MigrationBusy(Exception):
    """Another process is migrating the same database, and did not finish in time."""


def upgrade(engine: Engine) -> None:
    """Runs the migrations that are missing; two processes that do so at once follow each other.

    Raises:
        MigrationBusy: the other one took too long.
    """
    with _alone(engine), engine.begin() as connection:
        command.upgrade(_config(connection), "head")


def current(engine: Engine) -> str | None:
    """The version that the database is at; None when it was never migrated."""
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest() -> str:
    """The version that this program needs."""
    revision = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert revision is not None
    return revision


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Holds the migration lock, on a connection of its own: it is held until the migrations are committed. On SQLite
    the transaction of the migrations is the lock."""
    if engine.dialect.name == "sqlite":
        yield
        return
    with engine.connect() as connection:
        taken = connection.scalar(sa.text("SELECT GET_LOCK(:name, :wait)"), {"name": _LOCK, "wait": _LOCK_WAIT})
        if not taken:
            raise MigrationBusy(f"another process has been migrating this database for {_LOCK_WAIT} s")
        try:
            yield
        finally:
            connection.execute(sa.text("SELECT RELEASE_LOCK(:name)"), {"name": _LOCK})
