"""Define ``ntppool-monitor rejected``: show undecodable messages."""

import sys
from typing import Annotated

import typer

from ops.context import JSON_OPTION, globals_of, open_ledger
from ops.errors import UsageError
from ops.output import fields_as_dict, show_fields, show_table, write, write_bytes, write_json


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(help="Show undecodable messages.", no_args_is_help=True)
    app.add_typer(group, name="rejected")

    @group.command("list")
    def list_(
        context: typer.Context,
        topic: Annotated[
            str | None, typer.Option(metavar="TEXT", help="Only topics that contain TEXT, such as a monitor's name.")
        ] = None,
        limit: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Show at most N messages.")] = 50,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """List the last messages, newest first; they are kept for 7 days."""
        from ops.rejected import COLUMNS, list_rejected
        from runtime.db.engine import reading

        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            rows = list_rejected(connection, limit, topic)
        show_table(COLUMNS, rows, as_json=as_json)

    @group.command()
    def show(
        context: typer.Context,
        message: Annotated[int, typer.Argument(metavar="ID", min=1, help="Id from 'rejected list'.")],
        raw: Annotated[bool, typer.Option("--raw", help="Write only the exact payload, to a file or pipe.")] = False,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Show a message and its first 64 KiB."""
        from ops.rejected import payload_for_json, show_rejected
        from runtime.db.engine import reading

        if raw and sys.stdout.isatty():
            raise UsageError("--raw: a terminal would interpret bytes that an agent wrote; redirect stdout to a file")
        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            fields, payload = show_rejected(connection, message)
        if raw:
            write_bytes(payload)
        elif as_json:
            write_json(fields_as_dict(fields) | payload_for_json(payload))
        else:
            show_fields(fields)
            write("")
            write(payload.decode(errors="backslashreplace"))
