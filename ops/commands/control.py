"""Define ``ntppool-monitor control``: send a control command to a service or an agent, and print the answers."""

import json
import sys
from typing import Annotated, Final, get_args

import msgspec
import typer

from ops.context import globals_of
from ops.errors import OperatorError, UsageError
from ops.output import show_fields, write, write_json
from schema.messages import ControlAnswer, ControlCommand, LogLevel
from schema.names import Environment, check_monitor_name

SERVICES: Final = ("ingest", "scorer", "selector", "api", "notifier")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def control(
        context: typer.Context,
        service: Annotated[
            str, typer.Argument(metavar="SERVICE", help=f"{', '.join(SERVICES)}, or the full name of a monitor.")
        ],
        command: Annotated[
            str,
            typer.Argument(metavar="COMMAND", help="ping, status, log-level, pause, resume, rescore, review, ..."),
        ],
        server: Annotated[
            int | None, typer.Option(metavar="ID", help="The server that the command concerns; default: all.")
        ] = None,
        level: Annotated[str | None, typer.Option(metavar="LEVEL", help="New level, for log-level.")] = None,
        timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for answers.")] = 2.0,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Send a control command to workers or an agent.

        Print the answer of each. Exit code 1 if nobody answers or a receiver refuses.
        """
        import asyncio

        from ops.control import ask

        settings = globals_of(context).for_a_person()
        check_service(service, settings.deployment_mode)
        parsed = parse_command(command, server, level)
        if not 0 < timeout <= 600:
            raise UsageError(f"--timeout {timeout:g}: must be more than 0 and at most 600 (seconds)")
        answers = asyncio.run(ask(settings, service, parsed, timeout))
        if as_json:
            write_json(msgspec.to_builtins(answers))
        elif sys.stdout.isatty():
            for answer in answers:
                show_answer(answer)
        else:
            for answer in answers:
                write(answer_line(answer))
        if not answers:
            raise OperatorError(f"{service}: nobody answered within {timeout:g} s")
        if refused := sum(not answer.ok for answer in answers):
            raise OperatorError(f"{service}: {refused} of {len(answers)} refused")


def check_service(service: str, env: Environment) -> None:
    """Check that ``service`` is a possible receiver of control commands.

    Raises:
        UsageError: it is neither a service nor the name of a monitor.
        InvalidName: it is a name, but not of a monitor of ``env``.
    """
    if "." in service:
        check_monitor_name(service, env)
    elif service not in SERVICES:
        raise UsageError(f"service {service!r}: must be one of {', '.join(SERVICES)}, or the full name of a monitor")


def parse_command(command: str, server: int | None, level: str | None) -> ControlCommand:
    """Return the control command as a message.

    Raises:
        UsageError: the server id or the level is invalid.
    """
    if server is not None and server < 1:
        raise UsageError(f"--server {server}: must be a server's id")
    levels: tuple[LogLevel, ...] = get_args(LogLevel)
    known = next((known for known in levels if known == level), None)
    if level is not None and known is None:
        raise UsageError(f"--level {level!r}: must be one of {', '.join(levels)}")
    return ControlCommand(command=command, server_id=server, level=known)


def answer_line(answer: ControlAnswer) -> str:
    """Format one worker's answer as one line, for a pipe."""
    head, details = _parts(answer)
    return " ".join([head, *(f"{_value(name)}={_value(value)}" for name, value in details.items())])


def show_answer(answer: ControlAnswer) -> None:
    """Print one worker's answer for people: a line for each detail."""
    head, details = _parts(answer)
    write(head)
    if details:
        show_fields([(f"  {name}", _value(value)) for name, value in details.items()])


def _parts(answer: ControlAnswer) -> tuple[str, dict[str, object]]:
    """Return the receiver with its verdict, and the details that this does not cover."""
    details = dict(answer.details)
    who = details.pop("client_id", answer.service)
    return f"{who}: {'ok' if answer.ok else f'refused: {answer.message}'}", details


def _value(value: object) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value)
