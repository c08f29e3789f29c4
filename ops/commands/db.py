"""``ntppool-monitor db``: the ledger's tables."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from ops.context import database_at, globals_of, place_of
from ops.errors import OperatorError
from ops.output import print_error, write

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    group = typer.Typer(help="The ledger's tables.", no_args_is_help=True)
    app.add_typer(group, name="db")

    @group.command()
    def upgrade(context: typer.Context) -> None:
        """Brings the tables to the version needed here.

        A database that already holds the pool's own tables is adopted: they stay as they are, ours are added.
        That takes many minutes where log_scores has many millions of rows. It may be interrupted and run again.
        """
        with database_at(globals_of(context).for_a_person().database_url()) as engine, _told_to_end_like_ctrl_c():
            upgrade_ledger(engine)

    @group.command()
    def status(context: typer.Context) -> None:
        """Says at which version the tables are.

        Exit code 1 if this program needs another.
        """
        from runtime.db import migrate

        with database_at(globals_of(context).for_a_person().database_url()) as engine:
            write(status_line(engine))
            current = migrate.current(engine) == migrate.newest()
        if not current:
            raise OperatorError("database: run 'ntppool-monitor db upgrade'")


def upgrade_ledger(engine: "Engine") -> None:
    """Migrates, and says what was done.

    Raises:
        OperatorError: another process is at it for too long, or the pool's tables are not of the version we adopt, or
            it was interrupted.
    """
    from runtime.db import migrate

    before = migrate.current(engine)
    try:
        migrate.upgrade(engine, _tell)
    except (migrate.MigrationBusy, RuntimeError) as error:
        raise OperatorError(f"database {place_of(engine.url)}: {error}") from None
    except KeyboardInterrupt:
        raise OperatorError(
            f"database {place_of(engine.url)}: interrupted; run 'ntppool-monitor db upgrade' again to go on"
        ) from None
    after = migrate.current(engine)
    write(f"{place_of(engine.url)}: at version {after}" + ("" if before == after else f", was at {before or 'none'}"))


def _tell(line: str) -> None:
    print_error(line)
    sys.stderr.flush()


@contextmanager
def _told_to_end_like_ctrl_c() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: not without taking back what the database is at."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def status_line(engine: "Engine") -> str:
    """Where the database is, its version, and the one that is needed."""
    from runtime.db import migrate

    found, needed = migrate.current(engine), migrate.newest()
    return f"{place_of(engine.url)}: at version {found or 'none'}" + (
        "" if found == needed else f", {needed} is needed"
    )
