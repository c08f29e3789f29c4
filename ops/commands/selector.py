"""Define ``ntppool-monitor selector``: the selector worker, a single run of it, and its explanations."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ops.commands.workers import run_service
from ops.context import globals_of, open_ledger
from ops.errors import OperatorError
from ops.output import write, write_json, write_lines
from runtime.printable import printable

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from selector.rules.world import Review

_SERVER = typer.Argument(metavar="SERVER", help="Id or address.")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(help="Decide which monitors measure which server.", no_args_is_help=True)
    app.add_typer(group, name="selector")

    @group.command("server")
    def server_(context: typer.Context) -> None:
        """Review servers when they are due.

        Any number of them may run; they share the work.
        """
        from selector.worker import start

        run_service(globals_of(context), "selector", start)

    @group.command()
    def once(context: typer.Context, server: Annotated[str | None, _SERVER] = None) -> None:
        """Review all due servers, or SERVER, and exit.

        The assignments are published as by the running selector. SERVER is reviewed whether it is due or not.
        """
        from auth.settings import signing_key
        from auth.tokens import Role, token_source
        from ops.selector_once import SelectorOnce
        from runtime.worker import run_task

        settings = globals_of(context).for_a_person()
        with open_ledger(settings) as engine:
            server_id = None if server is None else _server_id(engine, server)
        key = signing_key(settings)
        token = token_source(key, Role.SERVER, "selector", settings.deployment_mode)
        run = SelectorOnce(server_id)
        run_task("selector", settings, token, run.work)
        for line in run.lines():
            write(line)
        if run.unnotified:
            raise OperatorError(
                f"not notified: {', '.join(sorted(run.unnotified))}; a running selector will publish their assignments"
            )

    @group.command()
    def simulate(
        context: typer.Context,
        server: Annotated[str, _SERVER],
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Show what a review would do now, and why.

        Show, rule by rule, which monitors move and why the others stay. This changes nothing.
        """
        from selector.rules import explain

        with open_ledger(globals_of(context).for_a_person()) as engine:
            review = simulated(engine, server, datetime.now(UTC), shown=str if as_json else printable)
        if as_json:
            write_json(explain.as_dict(review))
        else:
            write_lines(explain.as_text(review))


def simulated(engine: "Engine", server: str, now: datetime, *, shown: Callable[[str], str] = str) -> "Review":
    """Return the review of a server as it would be now.

    Args:
        engine: the ledger.
        server: id or address.
        now: time of the review, with its zone.
        shown: converts a monitor's name for display; a line break in a name would split a line of the explanation.

    Raises:
        OperatorError: there is no such server, or its own row is invalid.
    """
    from runtime.db.engine import reading
    from runtime.db.system_settings import PoolSettingsReader
    from selector.reviews import judge, rule_settings
    from selector.rows import BadRow
    from selector.store import read_inputs, read_monitor_labels

    server_id = _server_id(engine, server)
    settings = rule_settings(PoolSettingsReader(engine).get())
    with reading(engine) as connection:
        found = read_inputs(connection, [server_id], now, read_monitor_labels(connection)).get(server_id)
    if found is None:
        raise OperatorError(f"server {server!r}: no longer exists")
    if found.deleted(now):
        raise OperatorError(f"server {found.ip} (id {server_id}): is deleted; no monitor is assigned to it")
    try:
        named = [msgspec.structs.replace(monitor, name=shown(monitor.name)) for monitor in found.monitors]
        return judge(replace(found, monitors=named), settings, now)
    except BadRow as bad:
        raise OperatorError(f"server {found.ip} (id {server_id}): {bad}") from None


def _server_id(engine: "Engine", text: str) -> int:
    from ops.servers import find_server
    from runtime.db.engine import reading

    with reading(engine) as connection:
        return int(find_server(connection, text).id)
