"""``ntppool-monitor servers``: what is measured."""

from datetime import UTC, date, datetime
from typing import Annotated

import typer

from ops.context import globals_of, open_ledger
from ops.errors import UsageError
from ops.output import show_fields, show_table, write
from ops.servers import add_server, delete_server, find_server, list_servers, monitors_of, new_server, show_server
from runtime.database import reading, transaction, utc_now

_COLUMNS = (
    *("id", "address", "hostname", "account", "score", "scored", "active", "testing", "candidate", "deleted from"),
)
_PAIR_COLUMNS = ("id", "monitor", "status", "score", "scored", "violates", "paused for")
_SERVER = typer.Argument(metavar="SERVER", help="Id or address.")


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    group = typer.Typer(help="Servers: what is measured.", no_args_is_help=True)
    app.add_typer(group, name="servers")

    @group.command("list")
    def list_(
        context: typer.Context,
        all_: Annotated[bool, typer.Option("--all", help="Also those to be deleted.")] = False,
    ) -> None:
        """Lists the servers with their scores."""
        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            rows = list_servers(connection, deleted=all_)
        show_table(_COLUMNS, rows)

    @group.command()
    def show(context: typer.Context, server: Annotated[str, _SERVER]) -> None:
        """Shows a server and its monitors."""
        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            fields = show_server(connection, server)
            pairs = monitors_of(connection, find_server(connection, server).id)
        show_fields(fields)
        write("")
        show_table(_PAIR_COLUMNS, pairs)

    @group.command()
    def add(
        context: typer.Context,
        address: Annotated[str, typer.Argument(metavar="ADDRESS", help="IPv4 or IPv6.")],
        hostname: Annotated[str | None, typer.Option(metavar="NAME")] = None,
        account: Annotated[str | None, typer.Option(metavar="ACCOUNT", help="Id, token or slug of its owner.")] = None,
        port: Annotated[int | None, typer.Option(metavar="PORT", help="Other than 123 in devel only.")] = None,
    ) -> None:
        """Adds a server, or takes back its deletion."""
        settings = globals_of(context).for_a_person()
        server = new_server(settings.deployment_mode, address, hostname=hostname, account=account, port=port)
        now = utc_now().replace(microsecond=0)
        with open_ledger(settings) as engine:
            write(transaction(engine, lambda connection: add_server(connection, server, now)))

    @group.command()
    def delete(
        context: typer.Context,
        server: Annotated[str, _SERVER],
        on: Annotated[
            str | None, typer.Option(metavar="DATE", help="From this day on, in UTC; default: today.")
        ] = None,
    ) -> None:
        """Ends the measuring of a server.

        What was measured stays.
        """
        day = parse_day(on)
        with open_ledger(globals_of(context).for_a_person()) as engine:
            write(transaction(engine, lambda connection: delete_server(connection, server, day)))


def parse_day(text: str | None) -> date:
    """The day that ``text`` says; today without a text.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--on {text!r}: must be a day such as 2026-12-31") from None
