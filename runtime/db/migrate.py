"""Brings a database to the current version of the tables, also one that already holds the pool's.

An index of a large table takes many minutes. The migrations therefore run in a thread of their own, on a connection
that waits for its answers without end, while the caller's thread tells how far they are, and takes them back when it is
told to end: the server would go on with a statement whose client is gone.
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
    # Loaded where they are used: to load them takes as long as all else that a command needs for its start.
    from alembic.config import Config

_SCRIPTS: Final = Path(schema.__file__).parent / "migrations"
_STEP: Final = re.compile(r'^revision = "(?P<step>\w+)"\ndown_revision = (?:"(?P<after>\w+)"|None)$', re.MULTILINE)
"""A step of the migrations in its file. Every command asks for the last one, and Alembic takes long to load."""

_LOCK: Final = "ntppool_monitor_migrations"
_LOCK_WAIT: Final = 50  # seconds; shorter than the driver waits for an answer

TELL_EVERY: Final = 5.0
"""Seconds between two lines about a statement that takes long. Each asks the server for its progress, on the connection
that holds the lock, which would be ended if it were idle for too long."""

_KILL_AGAIN: Final = 1.0
"""Seconds until a statement that still runs is killed once more."""

_MOST_OF_A_STATEMENT: Final = 70

Tell = Callable[[str], None]
"""Takes a line for the operator."""


class MigrationBusy(Exception):
    """Another process is migrating the same database, and did not finish in time."""


class _TakenBack(Exception):
    """The migrations were told to end."""


def upgrade(engine: Engine, tell: Tell = lambda line: None) -> None:
    """Runs the migrations that are missing; two processes that do so at once follow each other.

    An exception that a signal raises here (``KeyboardInterrupt``) ends them, and what a statement has begun is undone.
    The next run goes on from there.

    Args:
        engine: of the database.
        tell: is told every few seconds which statement is running, for how long, and how far it is, if that is known.

    Raises:
        MigrationBusy: the other one took too long.
    """
    with _alone(engine) as lock:
        migration = _Migration(engine)
        migration.start()
        try:
            while not migration.wait(TELL_EVERY):
                tell(f"{migration.step()}{_progress(lock, migration.connection_id)}")
        except BaseException:
            migration.take_back()
            raise
        migration.result()


class _Migration:
    """The migrations, in a thread of their own."""

    def __init__(self, engine: Engine) -> None:
        self.connection_id: int | None = None
        """The server's number of the connection that they run on."""
        self._engine = engine
        self._ended: Future[None] = Future()
        self._told_to_end = threading.Event()
        self._statement, self._began = "", time.monotonic()
        self._driver: Any = None

    def start(self) -> None:
        """Begins."""
        # A daemon: nobody waits for it whose server has vanished without a word.
        threading.Thread(target=self._run, name="migration", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Waits until they have ended, or for so long; whether they have."""
        return bool(wait([self._ended], seconds).done)

    def result(self) -> None:
        """Raises what they ended with."""
        self._ended.result()

    def step(self) -> str:
        """The statement that is running, and for how long."""
        text = self._statement
        short = text if len(text) <= _MOST_OF_A_STATEMENT else f"{text[:_MOST_OF_A_STATEMENT]}..."
        return f"{short or 'migrations'}: {time.monotonic() - self._began:.0f} s"

    def take_back(self) -> None:
        """Ends them, and waits until the server has undone what it had begun."""
        self._told_to_end.set()
        with suppress(DBAPIError):  # a server that is away does nothing any more
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
        if self._told_to_end.is_set():
            raise _TakenBack
        self._statement, self._began = " ".join(statement.split()), time.monotonic()


def _progress(lock: Connection | None, connection_id: int | None) -> str:
    """What the server says of a connection's statement, in words; empty when it says nothing."""
    if lock is None or connection_id is None:
        return ""
    processes = lock.execute(sa.text("SHOW PROCESSLIST")).mappings()
    state = next((str(row["State"] or "") for row in processes if row["Id"] == connection_id), "")
    percent = None if state.startswith("Waiting") else _percent(lock, connection_id)
    lock.rollback()
    return "".join(f", {part}" for part in (state, percent and f"{percent:.0f} %") if part)


def _percent(lock: Connection, connection_id: int) -> float | None:
    """How far an index is."""
    if getattr(lock.dialect, "is_mariadb", False):
        # In hundredths, of all statements together, but there are seldom two. Its list of processes has only zeros.
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
        return None  # MySQL lets few accounts look, and counts only if it is told to
    return None if counted is None else float(counted)


def current(engine: Engine) -> str | None:
    """The version that the database is at; None when it was never migrated."""
    with reading(engine) as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        version = connection.scalar(sa.text("SELECT `version_num` FROM `alembic_version`"))
        return None if version is None else str(version)


def newest() -> str:
    """The version that this program needs."""
    texts = [path.read_text(encoding="utf-8") for path in (_SCRIPTS / "versions").glob("r*.py")]
    steps = {match["step"]: match["after"] for text in texts if (match := _STEP.search(text))}
    (last,) = steps.keys() - set(steps.values())
    return last


def _config(connection: Connection | None) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection | None]:
    """Holds the migration lock, on a connection of its own: it is held until the migrations are committed. On SQLite
    the transaction of the migrations is the lock."""
    if engine.dialect.name == "sqlite":
        yield None
        return
    with engine.connect() as connection:
        # It is closed in the end, whatever became of it, and the lock goes with it.
        connection.detach()
        taken = connection.scalar(sa.text("SELECT GET_LOCK(:name, :wait)"), {"name": _LOCK, "wait": _LOCK_WAIT})
        connection.rollback()
        if not taken:
            raise MigrationBusy(f"another process has been migrating this database for {_LOCK_WAIT} s")
        yield connection
