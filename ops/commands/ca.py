"""Define ``ntppool-monitor ca``: the certificate authority of monitors, brokers and API servers."""

from pathlib import Path
from typing import Annotated

import typer

from ops.context import JSON_OPTION, globals_of, open_ledger
from ops.errors import UsageError
from ops.output import Layout, print_error, show_table, write, write_lines

_Years = Annotated[int, typer.Option(metavar="N", min=1, max=30, help="Lifetime of the root.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(
        help="Manage the certificate authority of monitors, brokers and API servers.", no_args_is_help=True
    )
    app.add_typer(group, name="ca")
    _register_roots(group)
    _register_certificates(group)


def _register_roots(group: typer.Typer) -> None:
    @group.command()
    def init(context: typer.Context, years: _Years = 20) -> None:
        """Create the CA: its first root, with a key that only its owner can read.

        Back up the directory: with the key, anyone can become a monitor.
        """
        from datetime import timedelta

        from ops.ca import ca_errors, file_authority

        authority = file_authority(globals_of(context).for_a_person())
        with ca_errors():
            root = authority.create(timedelta(days=365 * years))
        write(f"{authority.directory}: created, SHA-256 {root.fingerprint}")

    @group.command()
    def show(
        context: typer.Context,
        name: Annotated[
            str | None, typer.Argument(metavar="[NAME]", help="Monitor, host or serial: show its certificates.")
        ] = None,
        bundle: Annotated[bool, typer.Option("--bundle", help="Print the roots to trust, as PEM.")] = False,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Show the roots, or the certificates of a monitor or server."""
        from datetime import UTC, datetime

        from auth.ca.settings import open_authority
        from ops.ca import (
            CERTIFICATE_COLUMNS,
            ROOT_COLUMNS,
            ca_errors,
            certificate_rows,
            file_authority,
            list_certificates,
            root_rows,
        )
        from runtime.db.engine import reading

        if bundle and (name is not None or as_json):
            raise UsageError("--bundle: is PEM of the roots, without NAME or --json")
        settings = globals_of(context).for_a_person()
        now = datetime.now(UTC)
        with ca_errors():
            if bundle:
                write_lines(open_authority(settings).bundle())
                return
            if name is None:
                show_table(ROOT_COLUMNS, root_rows(file_authority(settings).roots(), now), as_json=as_json)
                return
        with open_ledger(settings) as engine, reading(engine) as connection:
            rows = certificate_rows(list_certificates(connection, name), now)
        show_table(CERTIFICATE_COLUMNS, rows, Layout(lesser=("kind", "issued")), as_json=as_json)

    @group.command()
    def renew(
        context: typer.Context,
        years: _Years = 20,
        at_once: Annotated[bool, typer.Option("--at-once", help="Sign with the new root from now on.")] = False,
    ) -> None:
        """Add a root with a new key, which signs from tomorrow on.

        Until then, run 'ca crl' and reload the brokers: they refuse certificates of a root without a list. The former
        root stays in the bundle until its end, and who knows only the former one accepts new certificates, too.
        """
        from datetime import timedelta

        from auth.ca.files import NOTICE
        from ops.ca import ca_errors, file_authority

        authority = file_authority(globals_of(context).for_a_person())
        with ca_errors():
            root = authority.renew(timedelta(days=365 * years), notice=timedelta(0) if at_once else NOTICE)
        write(
            f"{authority.directory}: root {root.number} signs from {root.signs_from:%Y-%m-%d %H:%M} UTC on, "
            f"SHA-256 {root.fingerprint}"
        )
        print_error("run 'ca crl', and reload the brokers, before it signs")


def _register_certificates(group: typer.Typer) -> None:
    @group.command("issue-server")
    def issue_server(
        context: typer.Context,
        hosts: Annotated[list[str], typer.Argument(metavar="HOST...", help="DNS names or addresses of the server.")],
        certificate: Annotated[Path, typer.Option("--cert", metavar="FILE", help="Certificate and its chain.")],
        key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Private key, for its owner only.")],
        days: Annotated[int, typer.Option(metavar="N", min=1, max=398, help="Lifetime.")] = 90,
        client: Annotated[bool, typer.Option("--client", help="Let it log in to brokers, too.")] = False,
    ) -> None:
        """Write a new key and certificate for a broker or an API server.

        Existing files are replaced, and keep their owner. Reload the server then.
        """
        from datetime import timedelta

        from auth.ca.settings import open_authority
        from ops.ca import ca_errors
        from ops.ca import issue_server as issue

        settings = globals_of(context).for_a_person()
        lifetime = timedelta(days=days)
        with open_ledger(settings) as engine, ca_errors():
            write(issue(engine, open_authority(settings), hosts, certificate, key, lifetime, client=client))

    @group.command()
    def revoke(
        context: typer.Context,
        name: Annotated[
            str | None, typer.Argument(metavar="[MONITOR]", help="Full or short name: all its certificates.")
        ] = None,
        serial: Annotated[str | None, typer.Option(metavar="SERIAL", help="Only this certificate.")] = None,
    ) -> None:
        """Revoke the certificates of a monitor, or one certificate.

        The revocation list is written if CA_CRL_FILE is set. A monitor that is not deleted may get a new certificate.
        """
        from auth.ca.settings import open_authority
        from ops.ca import ca_errors, write_crl
        from ops.ca import revoke as revoke_certificates

        settings = globals_of(context).for_a_person()
        with open_ledger(settings) as engine, ca_errors():
            for line in revoke_certificates(engine, monitor=name, serial=serial):
                write(line)
            if settings.ca_crl_file is None:
                print_error("CA_CRL_FILE is not set: run 'ca crl FILE', and reload the broker")
            else:
                write(write_crl(engine, open_authority(settings), settings.ca_crl_file))

    @group.command()
    def crl(
        context: typer.Context,
        file: Annotated[
            Path | None, typer.Argument(metavar="[FILE]", help="The broker's crlfile; default: CA_CRL_FILE.")
        ] = None,
    ) -> None:
        """Write the list of revoked certificates for the broker, which ends after 30 days: run it daily."""
        from auth.ca.settings import open_authority
        from ops.ca import ca_errors, write_crl

        settings = globals_of(context).for_a_person()
        path = file or settings.ca_crl_file
        if path is None:
            raise UsageError("ca crl: needs a FILE, or CA_CRL_FILE")
        with open_ledger(settings) as engine, ca_errors():
            write(write_crl(engine, open_authority(settings), path))
