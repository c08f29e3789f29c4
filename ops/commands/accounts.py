"""Define ``ntppool-monitor accounts``: owners of monitors and servers, and their limits."""

from typing import Annotated

import typer

from ops.context import JSON_OPTION, globals_of, open_ledger
from ops.errors import UsageError
from ops.output import Layout, fields_as_dict, rows_as_dicts, show_fields, show_table, write, write_json

_ACCOUNT = typer.Argument(metavar="ACCOUNT", help="Id, token, slug or name.")
_EMAIL = typer.Argument(metavar="EMAIL", help="Address with which the user logs in.")
_Organization = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the organization.")]
_Url = Annotated[str | None, typer.Option(metavar="URL", help="Website of the organization.")]
_Slug = Annotated[str | None, typer.Option(metavar="SLUG", help="Name in page URLs, such as example-org.")]
_Limit = Annotated[int | None, typer.Option(metavar="N", help="Maximum number of monitors.")]
_PerServer = Annotated[
    int | None,
    typer.Option(metavar="N", help="Maximum of active monitors per server, plus one testing; default: 2."),
]
_Enabled = Annotated[
    bool | None, typer.Option("--monitor-enabled/--no-monitor-enabled", help="Let new monitors test without approval.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(help="Manage accounts, the owners of monitors and servers.", no_args_is_help=True)
    app.add_typer(group, name="accounts")

    @group.command("list")
    def list_(context: typer.Context, as_json: Annotated[bool, JSON_OPTION] = False) -> None:
        """List the accounts."""
        from ops.accounts import ACCOUNT_COLUMNS, list_accounts
        from runtime.db.engine import reading

        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            rows = list_accounts(connection)
        show_table(ACCOUNT_COLUMNS, rows, Layout(lesser=("slug", "enabled")), as_json=as_json)

    @group.command()
    def show(
        context: typer.Context,
        account: Annotated[str, _ACCOUNT],
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Show an account and its monitors."""
        from ops.accounts import show_account
        from ops.monitors import MONITOR_COLUMNS, MONITOR_LAYOUT, list_monitors
        from runtime.db.engine import reading

        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            account_id, fields = show_account(connection, account)
            monitors = list_monitors(connection, status=None, deleted=False, account_id=account_id)
        if as_json:
            write_json(fields_as_dict(fields) | {"monitors": rows_as_dicts(MONITOR_COLUMNS, monitors)})
            return
        show_fields(fields)
        write("")
        show_table(MONITOR_COLUMNS, monitors, MONITOR_LAYOUT)

    @group.command()
    def add(
        context: typer.Context,
        name: Annotated[str, typer.Argument(metavar="NAME", help="Display name.")],
        organization: _Organization = None,
        url: _Url = None,
        slug: _Slug = None,
        token: Annotated[
            str | None, typer.Option(metavar="TOKEN", help="Part of its monitors' names; default: random.")
        ] = None,
        monitor_limit: _Limit = None,
        monitors_per_server: _PerServer = None,
        monitor_enabled: _Enabled = None,
    ) -> None:
        """Add an account."""
        from ops.accounts import account_change, add_account
        from runtime.db.engine import transaction, utc_now

        change = account_change(
            name=name,
            organization=organization,
            url=url,
            slug=slug,
            token=token,
            monitor_limit=monitor_limit,
            monitors_per_server=monitors_per_server,
            monitor_enabled=monitor_enabled,
        )
        now = utc_now().replace(microsecond=0)
        with open_ledger(globals_of(context).for_a_person()) as engine:
            write(transaction(engine, lambda connection: add_account(connection, change, now)))

    @group.command("set")
    def set_(
        context: typer.Context,
        account: Annotated[str, _ACCOUNT],
        name: Annotated[str | None, typer.Option(metavar="NAME", help="Display name.")] = None,
        organization: _Organization = None,
        url: _Url = None,
        slug: _Slug = None,
        monitor_limit: _Limit = None,
        monitors_per_server: _PerServer = None,
        monitor_enabled: _Enabled = None,
        unset: Annotated[
            list[str] | None,
            typer.Option(metavar="OPTION", help="Clear a value: organization, monitor-limit, ...; repeatable."),
        ] = None,
    ) -> None:
        """Change an account."""
        from ops.accounts import account_change, set_account
        from runtime.db.engine import transaction

        change = account_change(
            name=name,
            organization=organization,
            url=url,
            slug=slug,
            monitor_limit=monitor_limit,
            monitors_per_server=monitors_per_server,
            monitor_enabled=monitor_enabled,
            unset=unset,
        )
        if not change.columns and not change.flags:
            raise UsageError("accounts set: nothing to change; see 'ntppool-monitor accounts set --help'")
        with open_ledger(globals_of(context).for_a_person()) as engine:
            done = transaction(engine, lambda connection: set_account(connection, account, change))
        for line in done:
            write(line)

    _register_users(group)

    @group.command("key")
    def key_(
        context: typer.Context,
        account: Annotated[str, _ACCOUNT],
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Make a key with which the owner of an account logs in.

        It is shown once. Former ones remain valid; see 'keys list' and 'keys revoke'.
        """
        from datetime import UTC, datetime

        from auth.api_key_store import add_key
        from auth.api_keys import Audience
        from auth.settings import peppers
        from ops.accounts import find_account
        from ops.registrations import warn_of_void_keys
        from runtime.db.engine import reading, transaction

        settings, now = globals_of(context).for_a_person(), datetime.now(UTC)
        pepper = peppers(settings)
        with open_ledger(settings) as engine:
            account_id, (key_id, key) = transaction(
                engine,
                lambda connection: (
                    account_id := find_account(connection, account, lock=True),
                    add_key(connection, pepper, now, audience=Audience.ACCOUNT, account_id=account_id),
                ),
            )
            with reading(engine) as connection:
                warn_of_void_keys(connection, settings)
        if as_json:
            write_json({"id": key_id, "account_id": account_id, "key": key.clear})
        else:
            write(key.clear)


def _register_users(group: typer.Typer) -> None:
    @group.command()
    def users(
        context: typer.Context,
        account: Annotated[str, _ACCOUNT],
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """List the users who may act for an account."""
        from ops.accounts import USER_COLUMNS, list_users
        from runtime.db.engine import reading

        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            rows = list_users(connection, account)
        show_table(USER_COLUMNS, rows, as_json=as_json)

    @group.command("add-user")
    def add_user_(context: typer.Context, account: Annotated[str, _ACCOUNT], email: Annotated[str, _EMAIL]) -> None:
        """Let a user act for an account, who logs in with OpenID Connect."""
        from ops.accounts import add_user
        from runtime.db.engine import transaction

        with open_ledger(globals_of(context).for_a_person()) as engine:
            write(transaction(engine, lambda connection: add_user(connection, account, email)))

    @group.command("remove-user")
    def remove_user_(context: typer.Context, account: Annotated[str, _ACCOUNT], email: Annotated[str, _EMAIL]) -> None:
        """End a user's right to act for an account, at once."""
        from ops.accounts import remove_user
        from runtime.db.engine import transaction

        with open_ledger(globals_of(context).for_a_person()) as engine:
            write(transaction(engine, lambda connection: remove_user(connection, account, email)))

    @group.command("unlink-user")
    def unlink_user_(context: typer.Context, email: Annotated[str, _EMAIL]) -> None:
        """Forget with which login a user logs in, so that the next one with the address counts."""
        from ops.accounts import unlink_user
        from runtime.db.engine import transaction

        with open_ledger(globals_of(context).for_a_person()) as engine:
            write(transaction(engine, lambda connection: unlink_user(connection, email)))
