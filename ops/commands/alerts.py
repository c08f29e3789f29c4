"""Define ``ntppool-monitor alerts``: what is raised, and the channels through which people are told."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.context import JSON_OPTION, globals_of, open_ledger
from ops.errors import OperatorError, UsageError
from ops.output import Layout, print_error, show_table, write

if TYPE_CHECKING:
    from notifier.addresses import Address

_MOST_URL = 4_096

_Channel = Annotated[int, typer.Argument(metavar="ID", min=1, max=2**32 - 1, help="Id from 'alerts channels'.")]
_OfAccount = Annotated[
    str | None, typer.Option("--account", metavar="ACCOUNT", help="Only of this account: id, token, slug or name.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(
        help="Show alerts, and manage the channels through which people are told.", no_args_is_help=True
    )
    app.add_typer(group, name="alerts")
    _register_lists(group)
    _register_changes(group)

    @group.command()
    def test(context: typer.Context, channel: _Channel) -> None:
        """Send a test message now, and report whether the channel takes it."""
        from ops.alerts import find_channel, trial_message
        from runtime.db.engine import reading, utc_now

        settings = globals_of(context).for_a_person()
        with open_ledger(settings) as engine, reading(engine) as connection:
            found = find_channel(connection, channel)
        from auth.settings import peppers
        from notifier.messages import UNREADABLE, job_for
        from notifier.senders import Senders
        from notifier.settings import sender_settings

        job = job_for(trial_message(found, settings.deployment_mode, utc_now()), peppers(settings))
        if job is None:
            raise OperatorError(f"channel {channel} ({found.shown}): {UNREADABLE}")

        async def send() -> str | None:
            senders = Senders(sender_settings(settings))
            async with senders.running():
                return (await senders.send(job)).failure

        if (failure := asyncio.run(send())) is not None:
            raise OperatorError(f"channel {channel} ({found.shown}): {failure}")
        write(f"channel {channel} ({found.shown}): took the message {job.key}")


def _register_lists(group: typer.Typer) -> None:
    @group.command("list")
    def list_(
        context: typer.Context, account: _OfAccount = None, as_json: Annotated[bool, JSON_OPTION] = False
    ) -> None:
        """List the alerts that are raised. Those about database, broker and clock are in the notifier's status."""
        from ops.accounts import find_account
        from ops.alerts import ALERT_COLUMNS, list_alerts
        from runtime.db.engine import reading

        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            rows = list_alerts(connection, None if account is None else find_account(connection, account))
        show_table(ALERT_COLUMNS, rows, Layout(lesser=("account",), names=("subject",)), as_json=as_json)

    @group.command()
    def channels(
        context: typer.Context, account: _OfAccount = None, as_json: Annotated[bool, JSON_OPTION] = False
    ) -> None:
        """List the channels. Of a URL, only its harmless part is shown."""
        from ops.accounts import find_account
        from ops.alerts import CHANNEL_COLUMNS, list_channels
        from runtime.db.engine import reading

        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            rows = list_channels(connection, None if account is None else find_account(connection, account))
        lesser = ("zone", "digest", "last sent", "quiet", "about", "failing")
        show_table(CHANNEL_COLUMNS, rows, Layout(lesser=lesser), as_json=as_json)


def _register_changes(group: typer.Typer) -> None:
    @group.command("add-channel")
    def add_channel_(
        context: typer.Context,
        account: Annotated[
            str | None, typer.Option(metavar="ACCOUNT", help="For this account: id, token, slug or name.")
        ] = None,
        operators: Annotated[bool, typer.Option("--operators", help="For the operators of the pool.")] = False,
        mail: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Send mail to this address.")] = None,
        url_file: Annotated[
            str | None,
            typer.Option(
                metavar="FILE",
                help="Send to the URL in this file, '-' for stdin: a webhook, or a chat in Apprise's form.",
            ),
        ] = None,
        about: Annotated[
            list[str] | None,
            typer.Option(
                metavar="GROUP",
                help="server, monitor or pool; repeat it for several. Default: server and monitor, of operators pool.",
            ),
        ] = None,
        quiet: Annotated[str | None, typer.Option(metavar="HOURS", help="Quiet hours, such as 22:00-07:00.")] = None,
        zone: Annotated[str, typer.Option(metavar="ZONE", help="Time zone of the quiet hours.")] = "UTC",
        digest: Annotated[int, typer.Option(metavar="MINUTES", help="At most one message in so many minutes.")] = 10,
    ) -> None:
        """Add a channel. URLs contain secrets, so they are read from a file and stored encrypted."""
        from auth.settings import peppers
        from ops.accounts import find_account
        from ops.alerts import add_channel, channel_plan
        from runtime.db.engine import transaction, utc_now

        if (account is None) != operators:
            raise UsageError("--account, --operators: give one of them")
        address = _address(mail, url_file, for_account=not operators)
        settings = globals_of(context).for_a_person()
        secret = peppers(settings)

        def work(connection):  # type: ignore[no-untyped-def]
            account_id = None if account is None else find_account(connection, account, lock=True)
            plan = channel_plan(
                account_id=account_id, address=address, about=about or (), quiet=quiet, zone=zone, digest=digest
            )
            return add_channel(connection, plan, secret, utc_now())

        with open_ledger(settings) as engine:
            write(transaction(engine, work))
        if mail is not None and settings.smtp_host is None:
            print_error("SMTP_HOST is not set here: the notifier needs it to send mail")

    @group.command("remove-channel")
    def remove_channel_(context: typer.Context, channel: _Channel) -> None:
        """Remove a channel, and what waits for it."""
        from ops.alerts import remove_channel
        from runtime.db.engine import transaction

        with open_ledger(globals_of(context).for_a_person()) as engine:
            write(transaction(engine, lambda connection: remove_channel(connection, channel)))


def _address(mail: str | None, url_file: str | None, *, for_account: bool) -> "Address":
    from notifier.addresses import InvalidAddress, mail_address, url_address

    if (mail is None) == (url_file is None):
        raise UsageError("--mail, --url-file: give one of them")
    try:
        if mail is not None:
            return mail_address(mail)
        assert url_file is not None
        return url_address(_read(url_file).strip(), for_account=for_account)
    except InvalidAddress as error:
        given = f"--mail {mail[:255]!r}" if mail is not None else f"--url-file {url_file}"
        raise UsageError(f"{given}: {error}") from None


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read(_MOST_URL)
        with Path(path).open(encoding="utf-8") as file:
            return file.read(_MOST_URL)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--url-file {path}: cannot be read as text ({type(error).__name__})") from None
