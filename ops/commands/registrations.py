"""Define ``ntppool-monitor registrations`` and ``keys``: approve hosts, and end their access."""

from typing import Annotated

import typer

from ops.context import JSON_OPTION, globals_of, open_ledger
from ops.errors import OperatorError, UsageError
from ops.output import show_fields, show_table, write, write_json

_REGISTRATION = typer.Argument(metavar="REGISTRATION", help="Id, or last part of the confirm page's address.")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(help="Approve hosts that ask to become monitors.", no_args_is_help=True)
    app.add_typer(group, name="registrations")
    _register_views(group)
    _register_decisions(group)
    keys = typer.Typer(help="List and revoke API keys.", no_args_is_help=True)
    app.add_typer(keys, name="keys")
    _register_keys(keys)


def _register_views(group: typer.Typer) -> None:
    @group.command("list")
    def list_(
        context: typer.Context,
        status: Annotated[str | None, typer.Option(metavar="STATUS", help="Only pending, accepted, ...")] = None,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """List the registrations, newest first."""
        from datetime import UTC, datetime

        from ops import registrations as ours

        wanted, settings = ours.parse_status(status), globals_of(context).for_a_person()
        with open_ledger(settings) as engine:
            found = ours.registrations_at(engine, settings).listed(datetime.now(UTC), status=wanted)
        rows = ours.registration_rows(found)
        show_table(ours.REGISTRATION_COLUMNS, rows, ours.REGISTRATION_LAYOUT, as_json=as_json)

    @group.command()
    def show(
        context: typer.Context,
        registration: Annotated[str, _REGISTRATION],
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Show a registration, and the monitors that have its addresses."""
        from datetime import UTC, datetime

        from auth.registration.model import CONFIRM_PATH
        from ops import registrations as ours

        settings = globals_of(context).for_a_person()
        with open_ledger(settings) as engine:
            these = ours.registrations_at(engine, settings)
            found = ours.find_registration(these, registration, datetime.now(UTC))
        show_fields(ours.registration_fields(found, CONFIRM_PATH), as_json=as_json)

    @group.command()
    def sources(context: typer.Context, as_json: Annotated[bool, JSON_OPTION] = False) -> None:
        """List the networks that registrations came from, with the number of refused ones."""
        from ops import registrations as ours
        from runtime.db.engine import reading

        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            rows = ours.source_rows(connection)
        show_table(ours.SOURCE_COLUMNS, rows, as_json=as_json)


def _register_decisions(group: typer.Typer) -> None:
    @group.command()
    def approve(
        context: typer.Context,
        registration: Annotated[str, _REGISTRATION],
        account: Annotated[
            str | None, typer.Option(metavar="ACCOUNT", help="Id, token, slug or name; default: that of setup's -a.")
        ] = None,
        location: Annotated[str, typer.Option(metavar="CODE", help="3 to 5 letters, such as nlams.")] = "",
        outcome: Annotated[
            str | None,
            typer.Option(metavar="OUTCOME", help="If an address has a monitor: new-key (for it), or new-name."),
        ] = None,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Approve a registration: its host gets its key at its next request."""
        from datetime import UTC, datetime

        from auth.registration.model import Problem
        from ops import registrations as ours
        from ops.accounts import find_account
        from runtime.db.engine import reading

        choice, settings, now = ours.parse_outcome(outcome), globals_of(context).for_a_person(), datetime.now(UTC)
        with open_ledger(settings) as engine:
            these = ours.registrations_at(engine, settings)
            found = ours.find_registration(these, registration, now)
            account_id = found.account_id
            if account is not None:
                with reading(engine) as connection:
                    account_id = find_account(connection, account)
            if account_id is None:
                raise UsageError("--account: must be given, since the host named none")
            done = these.confirm(
                found.verification_token,
                account_id=account_id,
                location=location,
                choice=choice,
                by=ours.operator(),
                now=now,
            )
        if isinstance(done, Problem):
            raise ours.refuse(found, done)
        if as_json:
            write_json({"id": found.id, "name": done.name, "set_aside": list(done.replaced)})
            return
        write(f"registration {found.id}: approved as {done.name}; the host gets its key at its next request")
        for name in done.replaced:
            write(f"{name}: was set aside")

    @group.command()
    def reject(
        context: typer.Context,
        registration: Annotated[str, _REGISTRATION],
        reason: Annotated[str, typer.Option(metavar="TEXT", help="Shown to the host.")] = "",
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Reject a registration; its host is told the reason."""
        from datetime import UTC, datetime

        from auth.registration.model import Problem
        from ops import registrations as ours

        settings, now = globals_of(context).for_a_person(), datetime.now(UTC)
        with open_ledger(settings) as engine:
            these = ours.registrations_at(engine, settings)
            found = ours.find_registration(these, registration, now)
            done = these.reject(found.verification_token, by=ours.operator(), reason=reason, now=now)
        if isinstance(done, Problem):
            raise ours.refuse(found, done)
        if as_json:
            write_json({"id": found.id, "status": "rejected"})
        else:
            write(f"registration {found.id}: rejected")


def _register_keys(group: typer.Typer) -> None:
    @group.command("list")
    def list_(
        context: typer.Context,
        account: Annotated[str | None, typer.Option(metavar="ACCOUNT", help="Only those of this account.")] = None,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """List the API keys, by their first characters."""
        from auth.api_key_store import list_keys
        from ops import registrations as ours
        from ops.accounts import find_account
        from runtime.db.engine import reading

        settings = globals_of(context).for_a_person()
        with open_ledger(settings) as engine, reading(engine) as connection:
            account_id = None if account is None else find_account(connection, account)
            rows = ours.key_rows(list_keys(connection, account_id=account_id))
            ours.warn_of_void_keys(connection, settings)
        show_table(ours.KEY_COLUMNS, rows, ours.KEY_LAYOUT, as_json=as_json)

    @group.command()
    def revoke(
        context: typer.Context,
        key: Annotated[int, typer.Argument(metavar="ID", min=1, max=2**32 - 1, help="Id of 'keys list'.")],
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Revoke an API key at once."""
        from datetime import UTC, datetime

        from auth.api_key_store import revoke_key
        from runtime.db.engine import transaction

        now = datetime.now(UTC)
        with open_ledger(globals_of(context).for_a_person()) as engine:
            done = transaction(engine, lambda connection: revoke_key(connection, key, now))
        if done is None:
            raise OperatorError(f"key {key}: not found (see 'ntppool-monitor keys list')")
        if as_json:
            write_json({"id": done.id, "ends": done.ends_on, "monitors": list(done.names)})
        else:
            of = f", of {', '.join(done.names)}" if done.names else ""
            write(f"key {done.id}: revoked{of}")
