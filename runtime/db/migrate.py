"""Migrate a database to the current version of the tables, including one that already has the pool's tables.

An index of a large table takes many minutes. The migrations therefore run in a separate thread, on a connection without
a time limit, while the caller's thread reports their progress. If the caller is interrupted, it cancels them, since the
server would otherwise continue a statement after its client has disconnected.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

import schema
from runtime.db.engine import reading, wait_without_end

if TYPE_CHECKING:
    # Imported where they are used, since the import takes as long as the rest of a command's start.
    from alembic.config import Config

_SCRIPTS: Final = Path(schema.__file__).parent / "migrations"
_STEP: Final = re.compile(r'^revision = "(?P<step>\w+)"\ndown_revision = (?:"(?P<after>\w+)"|None)$', re.MULTILINE)
"""Pattern of a migration's revisions in its file. Every command needs the last one, and Alembic loads slowly."""

_LOCK: Final = "ntppool_monitor_migrations"
_NOT_IN_A_CLUSTER: Final = 1235
_LOCK_WAIT: Final = 50  # seconds; shorter than the driver waits for an answer

REPORT_EVERY: Final = 5.0
"""Seconds between two lines about a long statement. Each queries the server for the progress, on the connection that
holds the lock, which also keeps that connection from an idle timeout."""

_UPDATE: Final = "it is of a newer release: update this program"

_KILL_AGAIN: Final = 1.0
"""Seconds until a statement that still runs is killed again."""

_MOST_OF_A_STATEMENT: Final = 70

Report = Callable[[str], None]
"""Callback for a line of progress for the operator."""


class MigrationBusy(Exception):
    """Another process is migrating the same database, and did not finish in time."""


class NewerDatabase(RuntimeError):
    """The database was migrated by a newer release, whose tables this program does not know."""


class _Cancelled(Exception):
    """The migrations were cancelled."""


def upgrade(engine: Engine, report: Report = lambda line: None) -> None:
    """Run the missing migrations; concurrent processes do so one after the other.

    An exception that a signal raises here (``KeyboardInterrupt``) cancels them, and the running statement is rolled
    back. The next run continues from there.

    Args:
        engine: of the database.
        report: called every few seconds with the running statement, its duration, and its progress if known.

    Raises:
        MigrationBusy: the other process took too long.
        NewerDatabase: there is nothing that this program could do.
    """
    with _alone(engine) as lock:
        if (found := current(engine)) is not None and found not in _steps():
            raise NewerDatabase(f"is at version {found}, this program needs {newest()}: {_UPDATE}")
        migration = _Migration(engine)
        migration.start()
        try:
            while not migration.wait(REPORT_EVERY):
                report(f"{migration.step()}{_progress(lock, migration.connection_id)}")
        except BaseException:
            migration.cancel()
            raise
        migration.result()


class _Migration:
    """The migrations in a separate thread."""

    def __init__(self, engine: Engine) -> None:
        self.connection_id: int | None = None
        """The server's id of their connection."""
        self._engine = engine
        self._ended: Future[None] = Future()
        self._cancelled = threading.Event()
        self._statement, self._began = "", time.monotonic()
        self._driver: Any = None

    def start(self) -> None:
        """Start the thread."""
        # A daemon thread, so that the process can exit if the server has vanished.
        threading.Thread(target=self._run, name="migration", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait until they have ended, for at most so many seconds; return whether they have."""
        return bool(wait([self._ended], seconds).done)

    def result(self) -> None:
        """Raise the error with which they ended, if any."""
        self._ended.result()

    def step(self) -> str:
        """Describe the running statement and its duration."""
        text = self._statement
        short = text if len(text) <= _MOST_OF_A_STATEMENT else f"{text[:_MOST_OF_A_STATEMENT]}..."
        return f"{short or 'migrations'}: {time.monotonic() - self._began:.0f} s"

    def cancel(self) -> None:
        """Cancel them, and wait until the server has rolled back the running statement."""
        self._cancelled.set()
        with suppress(DBAPIError):  # an unreachable server no longer runs it
            while not self._ended.done():
                self._kill()
                self.wait(_KILL_AGAIN)

    def _kill(self) -> None:
        if self._engine.dialect.name == "sqlite":
            self._driver.interrupt()
        elif self.connection_id is not None:
            with self._engine.connect() as connection:
                connection.execute(sa.text(f"KILL QUERY {self.connection_id}"))

    def _run(self) -> None:
        try:
            with self._engine.connect() as connection:
                self._migrate(connection)
        except BaseException as error:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def _migrate(self, connection: Connection) -> None:
        from alembic import command

        wait_without_end(connection)
        self._driver = connection.connection.dbapi_connection
        sa.event.listen(connection, "before_cursor_execute", self._note)
        with connection.begin():
            if connection.dialect.name != "sqlite":
                self.connection_id = connection.scalar(sa.text("SELECT CONNECTION_ID()"))
            if getattr(connection.dialect, "is_mariadb", False):
                connection.execute(sa.text("SET SESSION max_statement_time = 0"))
            command.upgrade(_config(connection), "head")

    def _note(self, connection: Connection, cursor: object, statement: str, *rest: object) -> None:
        if self._cancelled.is_set():
            raise _Cancelled
        self._statement, self._began = " ".join(statement.split()), time.monotonic()


def _progress(lock: Connection | None, connection_id: int | None) -> str:
    """Describe the server's progress with a connection's statement; empty if unknown."""
    if lock is None or connection_id is None:
        return ""
    processes = lock.execute(sa.text("SHOW PROCESSLIST")).mappings()
    state = next((str(row["State"] or "") for row in processes if row["Id"] == connection_id), "")
    percent = None if state.startswith("Waiting") else _percent(lock, connection_id)
    lock.rollback()
    return "".join(f", {part}" for part in (state, percent and f"{percent:.0f} %") if part)


def _percent(lock: Connection, connection_id: int) -> float | None:
    """Return the progress of an index creation in percent."""
    if getattr(lock.dialect, "is_mariadb", False):
        # In hundredths, of all statements together, but there are rarely two. Its process list has only zeros.
        found = lock.execute(sa.text("SHOW GLOBAL STATUS LIKE 'Innodb_onlineddl_pct_progress'")).first()
        return None if found is None else float(found[1]) / 100
    query = sa.text(
        "SELECT 100 * `s`.`work_completed` / `s`.`work_estimated` "
        "FROM `performance_schema`.`events_stages_current` AS `s` "
        "JOIN `performance_schema`.`threads` AS `t` ON `t`.`thread_id` = `s`.`thread_id` "
        "WHERE `t`.`processlist_id` = :id"
    )
    try:
        counted = lock.scalar(query, {"id": connection_id})
    except DBAPIError:
        return None  # on MySQL few accounts may read it, and it is counted only if configured
    return None if counted is None else float(counted)


def current(engine: Engine) -> str | None:
    """Return the version of the database; None if it was never migrated."""
    with reading(engine) as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        version = connection.scalar(sa.text("SELECT `version_num` FROM `alembic_version`"))
        return None if version is None else str(version)


def newest() -> str:
    """Return the version that this program needs."""
    steps = _steps()
    (last,) = steps.keys() - set(steps.values())
    return last


def mismatch(engine: Engine) -> str | None:
    """Say how the version of the database differs from the one that this program needs, and what to do; None if it does
    not differ."""
    found, needed = current(engine), newest()
    if found == needed:
        return None
    advice = "run 'ntppool-monitor db upgrade'" if found is None or found in _steps() else _UPDATE
    return f"is at version {found or 'none'}, this program needs {needed}: {advice}"


def _steps() -> dict[str, str | None]:
    """Return the version before each version that this program knows."""
    texts = [path.read_text(encoding="utf-8") for path in (_SCRIPTS / "versions").glob("r*.py")]
    return {match["step"]: match["after"] for text in texts if (match := _STEP.search(text))}


def _config(connection: Connection | None) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection | None]:
    """Hold the migration lock on a separate connection until the migrations are committed. On SQLite the transaction
    of the migrations is the lock."""
    if engine.dialect.name == "sqlite":
        yield None
        return
    with engine.connect() as connection:
        # A detached connection is always closed at the end, which releases the lock.
        connection.detach()
        acquired = _lock(connection)
        connection.rollback()
        if not acquired:
            raise MigrationBusy(f"another process has been migrating this database for {_LOCK_WAIT} s")
        yield connection


def _lock(connection: Connection) -> bool:
    """Acquire the lock; also return ``True`` in a Galera cluster, which has no named locks.

    There, of two processes that migrate at once, one may fail, and can be run again.
    """
    try:
        return bool(connection.scalar(sa.text("SELECT GET_LOCK(:name, :wait)"), {"name": _LOCK, "wait": _LOCK_WAIT}))
    except DBAPIError as error:
        if getattr(error.orig, "args", (None,))[0] != _NOT_IN_A_CLUSTER:
            raise
        return True
