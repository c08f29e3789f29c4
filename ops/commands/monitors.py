"""Define ``ntppool-monitor monitors``: manage monitors and their permission to measure."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from ops.context import JSON_OPTION, LIMIT_OPTION, SINCE_OPTION, globals_of, open_ledger
from ops.errors import OperatorError, UsageError
from ops.output import confirmed, fields_as_dict, show_fields, show_table, write, write_json
from schema.messages import LogLevel, MonitorStatus
from schema.names import check_monitor_name

if TYPE_CHECKING:
    from ops.monitors import Action

_NAME = typer.Argument(metavar="NAME", help="Id, full or short name; a name may end in /v4 or /v6.")
_NAMES = typer.Argument(metavar="NAME...", help="Ids, full or short names; a name may end in /v4 or /v6.")
_Account = Annotated[
    str | None, typer.Option(metavar="ACCOUNT", help="Id, token, slug or name of the account it belongs to.")
]
_Location = Annotated[str | None, typer.Option(metavar="TEXT", help="Location.")]
_Hostname = Annotated[str | None, typer.Option(metavar="TEXT", help="Name of its host.")]
_BaseChecks = Annotated[
    list[str] | None,
    typer.Option(
        "--base-check",
        metavar="SERVER",
        help="Address or name of a server to check its clock against; repeat it to give all of them.",
    ),
]
_Samples = Annotated[int | None, typer.Option(metavar="N", help="Packets per probe, 1 to 10.")]
_NatIp = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Its own address behind a NAT.")]
_LogLevel = Annotated[str | None, typer.Option(metavar="LEVEL", help=f"{', '.join(get_args(LogLevel))}.")]
_Unset = Annotated[
    list[str] | None,
    typer.Option(metavar="OPTION", help="Restore the default: base-check, samples, ...; repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(help="Manage monitors and their permission to measure.", no_args_is_help=True)
    app.add_typer(group, name="monitors")
    _register_views(group)
    _register_edits(group)
    _register_actions(group)


def _register_views(group: typer.Typer) -> None:
    @group.command("list")
    def list_(
        context: typer.Context,
        status: Annotated[
            str | None, typer.Option(metavar="STATUS", help=f"Only {', '.join(get_args(MonitorStatus))}.")
        ] = None,
        all_: Annotated[bool, typer.Option("--all", help="Include deleted ones.")] = False,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """List the monitors, a line per protocol."""
        from ops.monitors import MONITOR_COLUMNS, MONITOR_LAYOUT, list_monitors
        from runtime.db.engine import reading

        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            rows = list_monitors(connection, status=parse_status(status), deleted=all_)
        show_table(MONITOR_COLUMNS, rows, MONITOR_LAYOUT, as_json=as_json)

    @group.command()
    def show(
        context: typer.Context,
        name: Annotated[str, _NAME],
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Show all fields of a monitor, and the labels of its health with their reasons."""
        from ops.health import label_dicts, label_fields
        from ops.monitors import show_monitor
        from runtime.db.engine import reading

        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            fields, labels = show_monitor(connection, name)
        if as_json:
            write_json(fields_as_dict(fields) | {"labels": label_dicts(labels)})
        else:
            show_fields([*fields, *label_fields(labels)])

    @group.command()
    def history(
        context: typer.Context,
        name: Annotated[str, _NAME],
        since: Annotated[str, SINCE_OPTION] = "90d",
        limit: Annotated[int, LIMIT_OPTION] = 50,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Show when and why its servers' assignments changed.

        The newest entry comes last. Entries are kept for 90 days.
        """
        from ops.days import parse_since
        from ops.history import MONITOR_COLUMNS, monitor_history
        from ops.monitors import find_monitor
        from runtime.db.engine import reading, utc_now

        begin = parse_since(since, utc_now())
        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            rows = monitor_history(connection, find_monitor(connection, name).id, begin, limit)
        show_table(MONITOR_COLUMNS, rows, as_json=as_json)


def _register_edits(group: typer.Typer) -> None:
    @group.command()
    def add(
        context: typer.Context,
        name: Annotated[str, typer.Argument(metavar="NAME", help="Full name: SHORT.ENV.DOMAIN.")],
        address: Annotated[
            str, typer.Argument(metavar="ADDRESS", help="IPv4 or IPv6 address; it determines the protocol.")
        ],
        account: _Account = None,
        status: Annotated[str, typer.Option(metavar="STATUS", help="pending, testing, active or paused.")] = "pending",
        location: _Location = None,
        hostname: _Hostname = None,
        base_checks: _BaseChecks = None,
        samples: _Samples = None,
        nat_ip: _NatIp = None,
        log_level: _LogLevel = None,
    ) -> None:
        """Add one protocol of a monitor.

        For both protocols, run it once with each address. The agent also needs a token.
        """
        from ops.monitor_edits import add_monitor, monitor_change
        from runtime.db.engine import transaction, utc_now

        settings = globals_of(context).for_a_person()
        check_monitor_name(name, settings.deployment_mode)
        change = monitor_change(
            settings.deployment_mode,
            ip=address,
            account=account,
            status=status,
            location=location,
            hostname=hostname,
            base_checks=base_checks,
            samples=samples,
            nat_ip=nat_ip,
            log_level=log_level,
        )
        now = utc_now().replace(microsecond=0)
        with open_ledger(settings) as engine:
            write(transaction(engine, lambda connection: add_monitor(connection, name, change, now)))

    @group.command("set")
    def set_(
        context: typer.Context,
        name: Annotated[str, _NAME],
        address: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Its public address.")] = None,
        account: _Account = None,
        status: Annotated[
            str | None, typer.Option(metavar="STATUS", help="pending, testing, active or paused.")
        ] = None,
        location: _Location = None,
        hostname: _Hostname = None,
        base_checks: _BaseChecks = None,
        samples: _Samples = None,
        nat_ip: _NatIp = None,
        log_level: _LogLevel = None,
        unset: _Unset = None,
    ) -> None:
        """Change the pool's configuration of a monitor, and publish it to its agent."""
        from ops.monitor_edits import monitor_change, set_monitor
        from runtime.db.engine import transaction

        settings = globals_of(context).for_a_person()
        change = monitor_change(
            settings.deployment_mode,
            ip=address,
            account=account,
            status=status,
            location=location,
            hostname=hostname,
            base_checks=base_checks,
            samples=samples,
            nat_ip=nat_ip,
            log_level=log_level,
            unset=unset,
        )
        if change.empty:
            raise UsageError("monitors set: nothing to change; see 'ntppool-monitor monitors set --help'")
        with open_ledger(settings) as engine:
            done = transaction(engine, lambda connection: set_monitor(connection, name, change))
        for line in done:
            write(line)

    @group.command()
    def defaults(
        context: typer.Context,
        protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help="v4 or v6.")],
        base_checks: _BaseChecks = None,
        samples: _Samples = None,
        log_level: _LogLevel = None,
        unset: Annotated[
            list[str] | None, typer.Option(metavar="OPTION", help="base-check, samples, log-level.")
        ] = None,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Show or change the defaults of all monitors of a protocol.

        Without options other than --json, show them.
        """
        from ops.monitor_edits import monitor_change, parse_protocol, set_defaults, show_defaults
        from runtime.db.engine import reading, transaction, utc_now

        ipv, settings = parse_protocol(protocol), globals_of(context).for_a_person()
        change = monitor_change(
            settings.deployment_mode, base_checks=base_checks, samples=samples, log_level=log_level, unset=unset
        )
        if change.cleared:
            raise UsageError(f"--unset {', '.join(sorted(change.cleared))}: has no default; every monitor has its own")
        with open_ledger(settings) as engine:
            if change.empty:
                with reading(engine) as connection:
                    show_fields(show_defaults(connection, ipv), as_json=as_json)
                return
            now = utc_now().replace(microsecond=0)
            done = transaction(engine, lambda connection: set_defaults(connection, ipv, change, now))
        for line in done:
            write(line)


def _register_actions(group: typer.Typer) -> None:
    @group.command()
    def approve(
        context: typer.Context,
        names: Annotated[list[str], _NAMES],
        active: Annotated[bool, typer.Option("--active", help="Set to active instead of testing.")] = False,
    ) -> None:
        """Let pending monitors measure, as testing.

        With --active, pending and testing monitors become active.
        """
        _change(context, names, "approve", active=active)

    @group.command()
    def pause(context: typer.Context, names: Annotated[list[str], _NAMES]) -> None:
        """Stop monitors; other monitors replace them at their servers."""
        _change(context, names, "pause")

    @group.command()
    def resume(
        context: typer.Context,
        names: Annotated[list[str], _NAMES],
        active: Annotated[bool, typer.Option("--active", help="Set to active instead of testing.")] = False,
    ) -> None:
        """Let paused monitors measure again, as testing."""
        _change(context, names, "resume", active=active)

    @group.command()
    def delete(
        context: typer.Context,
        names: Annotated[list[str], _NAMES],
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    ) -> None:
        """Delete monitors permanently; their results stay.

        Ask for confirmation; without a terminal, --yes is required.
        """
        _change(context, names, "delete", sure=None if yes else _sure)


def parse_status(text: str | None) -> MonitorStatus | None:
    """Return the status called ``text``.

    Raises:
        UsageError: there is no such status.
    """
    known: tuple[MonitorStatus, ...] = get_args(MonitorStatus)
    if text is None:
        return None
    for status in known:
        if status == text:
            return status
    raise UsageError(f"--status {text!r}: must be one of {', '.join(known)}")


def _sure(env: str, found: list[str]) -> None:
    """Ask the operator to confirm the deletion of these monitors.

    Raises:
        OperatorError: the answer is no; UsageError: there is no terminal.
    """
    answer = confirmed(f"permanently delete in {env}: {', '.join(found)}?")
    if answer is None:
        raise UsageError("monitors delete: cannot ask for confirmation without a terminal; give --yes")
    if not answer:
        raise OperatorError("nothing was deleted")


def _change(
    context: typer.Context,
    names: list[str],
    action: "Action",
    *,
    active: bool = False,
    sure: Callable[[str, list[str]], None] | None = None,
) -> None:
    """Change all of the monitors, or none if one of them cannot be changed."""
    from ops.monitors import change_monitor, find_monitor
    from runtime.db.engine import reading, transaction, utc_now

    settings = globals_of(context).for_a_person()
    with open_ledger(settings) as engine:
        wanted: list[Any] = list(names)
        if sure is not None:
            with reading(engine) as connection:
                found = [find_monitor(connection, name) for name in names]
            sure(settings.deployment_mode, [f"{one}, {one.status}" for one in found])
            wanted = [str(one.id) for one in found]  # exactly the monitors of the question
        now = utc_now().replace(microsecond=0)
        done = transaction(engine, lambda c: [change_monitor(c, name, action, now, active=active) for name in wanted])
    for line in done:
        write(line)
