"""``ntppool-monitor monitors``: who measures, and who may."""

from typing import Annotated, get_args

import typer

from ops.context import globals_of, open_ledger
from ops.errors import UsageError
from ops.monitors import Action, change_monitor, list_monitors, show_monitor
from ops.output import show_fields, show_table, write
from runtime.database import reading, transaction, utc_now
from schema.messages import MonitorStatus

_NAME = typer.Argument(metavar="NAME", help="Id, full or short name; a name may end in /v4 or /v6.")
_NAMES = typer.Argument(metavar="NAME...", help="Ids, full or short names; a name may end in /v4 or /v6.")
_COLUMNS = ("id", "name", "protocol", "address", "status", "account", "version", "online", "last seen")


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    group = typer.Typer(help="Monitors: who measures, and who may.", no_args_is_help=True)
    app.add_typer(group, name="monitors")

    @group.command("list")
    def list_(
        context: typer.Context,
        status: Annotated[
            str | None, typer.Option(metavar="STATUS", help=f"Only {', '.join(get_args(MonitorStatus))}.")
        ] = None,
        all_: Annotated[bool, typer.Option("--all", help="Deleted ones too.")] = False,
    ) -> None:
        """Lists the monitors, a line per protocol."""
        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            rows = list_monitors(connection, status=parse_status(status), deleted=all_)
        show_table(_COLUMNS, rows)

    @group.command()
    def show(context: typer.Context, name: Annotated[str, _NAME]) -> None:
        """Shows all that is known of a monitor."""
        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            show_fields(show_monitor(connection, name))

    @group.command()
    def approve(
        context: typer.Context,
        names: Annotated[list[str], _NAMES],
        active: Annotated[bool, typer.Option("--active", help="Make it active, not testing.")] = False,
    ) -> None:
        """Lets pending monitors measure, as testing.

        With --active pending and testing ones become active.
        """
        _change(context, names, "approve", active=active)

    @group.command()
    def pause(context: typer.Context, names: Annotated[list[str], _NAMES]) -> None:
        """Stops monitors; their servers get others."""
        _change(context, names, "pause")

    @group.command()
    def resume(
        context: typer.Context,
        names: Annotated[list[str], _NAMES],
        active: Annotated[bool, typer.Option("--active", help="As active, not testing.")] = False,
    ) -> None:
        """Lets paused monitors measure again, as testing."""
        _change(context, names, "resume", active=active)

    @group.command()
    def delete(context: typer.Context, names: Annotated[list[str], _NAMES]) -> None:
        """Removes monitors for good; what they measured stays."""
        _change(context, names, "delete")


def parse_status(text: str | None) -> MonitorStatus | None:
    """The status called ``text``.

    Raises:
        UsageError: there is none.
    """
    known: tuple[MonitorStatus, ...] = get_args(MonitorStatus)
    if text is None:
        return None
    for status in known:
        if status == text:
            return status
    raise UsageError(f"--status {text!r}: must be one of {', '.join(known)}")


def _change(context: typer.Context, names: list[str], action: Action, *, active: bool = False) -> None:
    """All of them, or, when one cannot be changed, none."""
    with open_ledger(globals_of(context).for_a_person()) as engine:
        now = utc_now().replace(microsecond=0)
        done = transaction(engine, lambda c: [change_monitor(c, name, action, now, active=active) for name in names])
    for line in done:
        write(line)
