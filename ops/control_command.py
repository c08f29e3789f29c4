"""``ntppool-monitor control``: an order to all workers of a service or to one agent, and what each of them answers."""

import asyncio
import getpass
import json
import secrets
from contextlib import suppress
from typing import Annotated, Final, get_args

import typer

from auth.tokens import Role, check_name, token_source
from ops.context import globals_of, signing_key
from ops.errors import OperatorError, UsageError
from ops.output import write
from runtime.broker import BrokerSession, Identity, Incoming, Lost, NotConnected, PublishRefused, Subscription
from runtime.settings import WorkerSettings
from schema.messages import ControlAnswer, ControlCommand, LogLevel, Undecodable, decode, encode
from schema.names import Environment, check_monitor_name
from schema.topics import Topics

SERVICES: Final = ("ingest", "scorer", "selector")
_CONNECT: Final = 10.0
"""Seconds to reach the broker."""


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""

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
        server: Annotated[int | None, typer.Option(metavar="ID", help="The server it is about; default: all.")] = None,
        level: Annotated[str | None, typer.Option(metavar="LEVEL", help="For log-level.")] = None,
        timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for answers.")] = 2.0,
    ) -> None:
        """Gives an order to workers or an agent.

        Prints what each of them answers. Exit code 1 if nobody answers, or one refuses.
        """
        settings = globals_of(context).for_a_person()
        check_service(service, settings.deployment_mode)
        order = parse_order(command, server, level)
        if not 0 < timeout <= 600:
            raise UsageError(f"--timeout {timeout:g}: must be more than 0 and at most 600 (seconds)")
        answers = asyncio.run(ask(settings, service, order, timeout))
        for answer in answers:
            write(answer_line(answer))
        if not answers:
            raise OperatorError(f"{service}: nobody answered within {timeout:g} s")
        if refused := sum(not answer.ok for answer in answers):
            raise OperatorError(f"{service}: {refused} of {len(answers)} refused")


def check_service(service: str, env: Environment) -> None:
    """Makes sure that there can be somebody to give orders to.

    Raises:
        UsageError: it is neither a service nor a monitor's name.
        InvalidName: it is a name, but no monitor's of ``env``.
    """
    if "." in service:
        check_monitor_name(service, env)
    elif service not in SERVICES:
        raise UsageError(f"service {service!r}: must be one of {', '.join(SERVICES)}, or the full name of a monitor")


def parse_order(command: str, server: int | None, level: str | None) -> ControlCommand:
    """The order as a message.

    Raises:
        UsageError: there can be no such server or level.
    """
    if server is not None and server < 1:
        raise UsageError(f"--server {server}: must be a server's id")
    levels: tuple[LogLevel, ...] = get_args(LogLevel)
    known = next((known for known in levels if known == level), None)
    if level is not None and known is None:
        raise UsageError(f"--level {level!r}: must be one of {', '.join(levels)}")
    return ControlCommand(command=command, server_id=server, level=known)


def answer_line(answer: ControlAnswer) -> str:
    """What one worker said."""
    details = dict(answer.details)
    who = details.pop("client_id", answer.service)
    parts = [f"{who}:", "ok" if answer.ok else f"refused: {answer.message}"]
    return " ".join([*parts, *(f"{name}={_value(value)}" for name, value in details.items())])


def _value(value: object) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value)


async def ask(settings: WorkerSettings, service: str, order: ControlCommand, timeout: float) -> list[ControlAnswer]:
    """The answers of all workers of ``service``, or of that agent, that arrive within ``timeout`` seconds.

    Raises:
        OperatorError: the broker cannot be reached, or does not let us.
    """
    env = settings.deployment_mode
    operator = check_name(Role.ADMIN, getpass.getuser(), env)
    topics, key = Topics(env), secrets.token_hex(8)
    is_agent = "." in service
    order_topic = topics.monitor_control(service) if is_agent else topics.service_control(service)
    # An agent may write below its own name only.
    response_topic = topics.data(service, key) if is_agent else topics.answers(operator, key)
    lost: asyncio.Queue[Lost] = asyncio.Queue()
    arriving: asyncio.Queue[ControlAnswer] = asyncio.Queue()
    broker = BrokerSession(
        settings.broker_address(),
        Identity(operator, f"{operator}/control-{key}"),
        token_source(signing_key(settings), Role.ADMIN, operator, env),
        subscriptions=[Subscription(response_topic, lambda message: arriving.put_nowait(_answer(message)))],
        on_lost=lost.put_nowait,
    )
    running = asyncio.create_task(broker.run(), name="broker session")
    try:
        await _first_connection(broker, lost)
        await broker.publish(order_topic, encode(order), response_topic=response_topic)
        return await _gather(arriving, timeout, one=is_agent)
    except (NotConnected, PublishRefused) as error:
        raise OperatorError(f"broker: {error}") from None
    finally:
        running.cancel()
        await asyncio.wait({running})


async def _gather(arriving: "asyncio.Queue[ControlAnswer]", timeout: float, *, one: bool) -> list[ControlAnswer]:
    """All that arrive in that time, since nobody knows how many workers there are; or the one that there can be."""
    answers: list[ControlAnswer] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while not (one and answers):
                answers.append(await arriving.get())
    return answers


async def _first_connection(broker: BrokerSession, lost: asyncio.Queue[Lost]) -> None:
    """Returns when connected; a person wants to hear of the first failure, not to wait for a better time."""
    ready = asyncio.create_task(broker.wait_ready(), name="ready")
    failed = asyncio.create_task(lost.get(), name="failed")
    done, pending = await asyncio.wait({ready, failed}, timeout=_CONNECT, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if failed in done:
        raise OperatorError(f"broker {broker.address}: {failed.result().reason}")
    if not done:
        raise OperatorError(f"broker {broker.address}: no connection within {_CONNECT:g} s")


def _answer(message: Incoming) -> ControlAnswer:
    try:
        return decode(message.payload, ControlAnswer)
    except Undecodable as error:
        return ControlAnswer(ok=False, service="?", command="", message=f"unreadable answer: {error}")
