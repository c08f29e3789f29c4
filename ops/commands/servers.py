"""Define ``ntppool-monitor servers``: manage the servers to measure."""

from typing import Annotated

import typer

from ops.context import JSON_OPTION, LIMIT_OPTION, SINCE_OPTION, globals_of, open_ledger
from ops.days import parse_day, parse_since
from ops.errors import UsageError
from ops.output import Layout, fields_as_dict, rows_as_dicts, show_fields, show_table, write, write_json

_COLUMNS = (
    *("id", "address", "hostname", "account", "score", "scored", "active", "testing", "candidate", "deleted from"),
)
_LAYOUT = Layout(lesser=("account", "hostname", "deleted from", "scored"))
_PAIR_COLUMNS = ("id", "monitor", "status", "score", "scored", "stratum", "violates", "paused for")
_PAIR_LAYOUT = Layout(lesser=("stratum", "scored"), names=("monitor",))
_SERVER = typer.Argument(metavar="SERVER", help="Id or address.")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(help="Manage the servers to measure.", no_args_is_help=True)
    app.add_typer(group, name="servers")
    _register_views(group)
    _register_changes(group)


def _register_views(group: typer.Typer) -> None:
    @group.command("list")
    def list_(
        context: typer.Context,
        all_: Annotated[bool, typer.Option("--all", help="Include those to be deleted.")] = False,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """List the servers with their scores."""
        from ops.servers import list_servers
        from runtime.db.engine import reading

        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            rows = list_servers(connection, deleted=all_)
        show_table(_COLUMNS, rows, _LAYOUT, as_json=as_json)

    @group.command()
    def show(
        context: typer.Context,
        server: Annotated[str, _SERVER],
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Show a server and its monitors."""
        from ops.servers import find_server, monitors_of, show_server
        from runtime.db.engine import reading

        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            fields = show_server(connection, server)
            pairs = monitors_of(connection, find_server(connection, server).id)
        if as_json:
            write_json(fields_as_dict(fields) | {"monitors": rows_as_dicts(_PAIR_COLUMNS, pairs)})
            return
        show_fields(fields)
        write("")
        show_table(_PAIR_COLUMNS, pairs, _PAIR_LAYOUT)

    @group.command()
    def history(
        context: typer.Context,
        server: Annotated[str, _SERVER],
        since: Annotated[str, SINCE_OPTION] = "90d",
        limit: Annotated[int, LIMIT_OPTION] = 50,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Show when and why its monitors changed, and when its score crossed 10.

        The newest entry comes last. Changes of monitors are kept for 90 days, scores as long as log_scores.
        """
        from ops.history import SERVER_COLUMNS, server_history
        from ops.servers import find_server
        from runtime.db.engine import reading, utc_now

        begin = parse_since(since, utc_now())
        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            rows = server_history(connection, find_server(connection, server).id, begin, limit)
        show_table(SERVER_COLUMNS, rows, Layout(names=("monitor",)), as_json=as_json)

    @group.command()
    def routes(
        context: typer.Context,
        server: Annotated[str, _SERVER],
        since: Annotated[str, SINCE_OPTION] = "15d",
        limit: Annotated[int, LIMIT_OPTION] = 10,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Show the routes to it, as traced by 'ntppool-monitor check' and the API.

        The newest one comes last. Routes are kept for 15 days, at most 100 of each day.
        """
        from ops.routes import show_routes
        from ops.servers import find_server
        from runtime.db.engine import reading, utc_now

        begin = parse_since(since, utc_now())
        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            show_routes(connection, find_server(connection, server).id, begin, limit, as_json=as_json)


def _register_changes(group: typer.Typer) -> None:
    @group.command()
    def add(
        context: typer.Context,
        address: Annotated[str, typer.Argument(metavar="ADDRESS", help="IPv4 or IPv6.")],
        hostname: Annotated[str | None, typer.Option(metavar="NAME", help="Name of its host.")] = None,
        account: Annotated[
            str | None, typer.Option(metavar="ACCOUNT", help="Id, token, slug or name of its owner.")
        ] = None,
        port: Annotated[int | None, typer.Option(metavar="PORT", help="NTP port; must be 123 outside devel.")] = None,
    ) -> None:
        """Add a server, or revert its deletion."""
        from ops.servers import add_server, new_server
        from runtime.db.engine import transaction, utc_now

        settings = globals_of(context).for_a_person()
        server = new_server(settings.deployment_mode, address, hostname=hostname, account=account, port=port)
        now = utc_now().replace(microsecond=0)
        with open_ledger(settings) as engine:
            write(transaction(engine, lambda connection: add_server(connection, server, now)))

    @group.command("set")
    def set_(
        context: typer.Context,
        server: Annotated[str, _SERVER],
        hostname: Annotated[str | None, typer.Option(metavar="NAME", help="Name of its host.")] = None,
        account: Annotated[
            str | None, typer.Option(metavar="ACCOUNT", help="Id, token, slug or name of its owner.")
        ] = None,
        unset: Annotated[
            list[str] | None, typer.Option(metavar="OPTION", help="Clear a value: hostname, account; repeatable.")
        ] = None,
    ) -> None:
        """Change the pool's data about a server."""
        from ops.servers import server_change, set_server
        from runtime.db.engine import transaction, utc_now

        change = server_change(hostname=hostname, account=account, unset=unset)
        if change.empty:
            raise UsageError("servers set: nothing to change; see 'ntppool-monitor servers set --help'")
        now = utc_now().replace(microsecond=0)
        with open_ledger(globals_of(context).for_a_person()) as engine:
            done = transaction(engine, lambda connection: set_server(connection, server, change, now))
        for line in done:
            write(line)

    @group.command()
    def delete(
        context: typer.Context,
        server: Annotated[str, _SERVER],
        on: Annotated[
            str | None, typer.Option(metavar="DATE", help="First day without measurements, in UTC; default: today.")
        ] = None,
    ) -> None:
        """Stop measuring a server.

        Its results stay; 'servers add' reverts the deletion.
        """
        from ops.servers import delete_server
        from runtime.db.engine import transaction

        day = parse_day(on)
        with open_ledger(globals_of(context).for_a_person()) as engine:
            write(transaction(engine, lambda connection: delete_server(connection, server, day)))
