"""Send a control command to workers or an agent through the broker, and collect the answers."""

import asyncio
import getpass
import os
import secrets
from contextlib import suppress
from typing import Final

from auth.settings import signing_key
from auth.tokens import Role, check_name, token_source
from ops.errors import OperatorError
from runtime.mqtt.session import BrokerSession, Identity, Incoming, Lost, NotConnected, PublishRefused, Subscription
from runtime.settings import WorkerSettings
from schema.messages import ControlAnswer, ControlCommand, Undecodable, decode, encode
from schema.topics import Topics

_CONNECT: Final = 10.0
"""Seconds to reach the broker."""


async def ask(settings: WorkerSettings, service: str, command: ControlCommand, timeout: float) -> list[ControlAnswer]:
    """Return the answers of all workers of ``service``, or of that agent, that arrive within ``timeout`` seconds.

    Raises:
        OperatorError: the broker cannot be reached, or refuses the login or the message.
    """
    env = settings.deployment_mode
    operator = check_name(Role.ADMIN, _user(), env)
    topics, key = Topics(env), secrets.token_hex(8)
    is_agent = "." in service
    command_topic = topics.monitor_control(service) if is_agent else topics.service_control(service)
    # An agent may publish only below its own name.
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
        await broker.publish(command_topic, encode(command), response_topic=response_topic)
        return await _gather(arriving, timeout, one=is_agent)
    except (NotConnected, PublishRefused) as error:
        raise OperatorError(f"broker: {error}") from None
    finally:
        running.cancel()
        await asyncio.wait({running})


def _user() -> str:
    """Return the name of the sender; in a container, a user need not have a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


async def _gather(arriving: "asyncio.Queue[ControlAnswer]", timeout: float, *, one: bool) -> list[ControlAnswer]:
    """Return all answers that arrive in time, as the number of workers is unknown; or an agent's only answer."""
    answers: list[ControlAnswer] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while not (one and answers):
                answers.append(await arriving.get())
    return answers


async def _first_connection(broker: BrokerSession, lost: asyncio.Queue[Lost]) -> None:
    """Wait for the connection. Report the first failure instead of retrying, since a person is waiting."""
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
        return ControlAnswer(ok=False, service="?", command="", message=f"undecodable answer: {error}")
