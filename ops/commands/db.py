"""Define ``ntppool-monitor db``: manage the ledger's tables."""

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
    """Add the commands to ``app``."""
    group = typer.Typer(help="Manage the ledger's tables.", no_args_is_help=True)
    app.add_typer(group, name="db")

    @group.command()
    def upgrade(context: typer.Context) -> None:
        """Migrate the tables to the version that this program needs.

        A database that already holds the pool's own tables is adopted: these tables stay as they are, and ours are
        added. This takes many minutes if log_scores has many millions of rows. You can interrupt it and run it again.
        """
        with database_at(globals_of(context).for_a_person().database_url()) as engine, _sigterm_like_ctrl_c():
            upgrade_ledger(engine)

    @group.command()
    def status(context: typer.Context) -> None:
        """Show the version of the tables.

        Exit code 1 if this program needs another version.
        """
        from runtime.db import migrate

        with database_at(globals_of(context).for_a_person().database_url()) as engine:
            write(status_line(engine))
            mismatch = migrate.mismatch(engine)
        if mismatch is not None:
            raise OperatorError(f"database: {mismatch}")


def upgrade_ledger(engine: "Engine") -> None:
    """Migrate the ledger and print the old and the new version.

    Raises:
        OperatorError: another process migrates for too long, the pool's tables cannot be adopted, or the migration was
            interrupted.
    """
    from runtime.db import migrate

    before = migrate.current(engine)
    try:
        migrate.upgrade(engine, _print_progress)
    except (migrate.MigrationBusy, RuntimeError) as error:
        raise OperatorError(f"database {place_of(engine.url)}: {error}") from None
    except KeyboardInterrupt:
        raise OperatorError(
            f"database {place_of(engine.url)}: interrupted; run 'ntppool-monitor db upgrade' again to continue"
        ) from None
    after = migrate.current(engine)
    write(f"{place_of(engine.url)}: at version {after}" + ("" if before == after else f", was at {before or 'none'}"))


def _print_progress(line: str) -> None:
    print_error(line)
    sys.stderr.flush()


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that the statement that the database is executing is cancelled."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def status_line(engine: "Engine") -> str:
    """Describe the database, its version, and the version that is needed."""
    from runtime.db import migrate

    found, needed = migrate.current(engine), migrate.newest()
    return f"{place_of(engine.url)}: at version {found or 'none'}" + (
        "" if found == needed else f", {needed} is needed"
    )
