"""``ntppool-monitor db``: the ledger's tables."""

import typer
from sqlalchemy.engine import Engine

from ops.context import globals_of
from ops.errors import OperatorError
from ops.output import write
from runtime import migrations
from runtime.database import open_database


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    group = typer.Typer(help="The ledger's tables.", no_args_is_help=True)
    app.add_typer(group, name="db")

    @group.command()
    def upgrade(context: typer.Context) -> None:
        """Brings the database to the version that this program needs; adopts one that holds the pool's tables."""
        engine = open_database(globals_of(context).for_a_person().database_url())
        try:
            upgrade_ledger(engine)
        finally:
            engine.dispose()

    @group.command()
    def status(context: typer.Context) -> None:
        """Says at which version the database is; exit code 1 if this program needs another."""
        engine = open_database(globals_of(context).for_a_person().database_url())
        try:
            write(status_line(engine))
            current = migrations.current(engine) == migrations.newest()
        finally:
            engine.dispose()
        if not current:
            raise OperatorError("database: run 'ntppool-monitor db upgrade'")


def upgrade_ledger(engine: Engine) -> None:
    """Migrates, and says what was done.

    Raises:
        OperatorError: another process is at it for too long, or the pool's tables are not of the version we adopt.
    """
    before = migrations.current(engine)
    try:
        migrations.upgrade(engine)
    except migrations.MigrationBusy as error:
        raise OperatorError(f"database: {error}") from None
    except RuntimeError as error:
        raise OperatorError(f"database: {error}") from None
    after = migrations.current(engine)
    place = engine.url.render_as_string(hide_password=True)
    write(f"{place}: at version {after}" + ("" if before == after else f", was at {before or 'none'}"))


def status_line(engine: Engine) -> str:
    """Where the database is, its version, and the one that is needed."""
    found, needed = migrations.current(engine), migrations.newest()
    place = engine.url.render_as_string(hide_password=True)
    return f"{place}: at version {found or 'none'}" + ("" if found == needed else f", {needed} is needed")
