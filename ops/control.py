"""Send a control command to workers or an agent through the broker, and collect the answers."""

import getpass
import os

from auth.settings import signing_key
from auth.tokens import Role, check_name, token_source
from ops.errors import OperatorError
from runtime.mqtt.request import RequestClient, RequestFailed, new_key
from runtime.mqtt.types import Identity
from runtime.settings import WorkerSettings
from schema.messages import ControlAnswer, ControlCommand, Undecodable, decode, encode
from schema.topics import Topics


async def ask(settings: WorkerSettings, service: str, order: ControlCommand, timeout: float) -> list[ControlAnswer]:
    """Return the answers of all workers of ``service``, or of that agent, that arrive within ``timeout`` seconds.

    Raises:
        OperatorError: the broker cannot be reached, or refuses the login or the message.
    """
    env = settings.deployment_mode
    operator = check_name(Role.ADMIN, operator_name(), env)
    topics, key = Topics(env), new_key()
    is_agent = "." in service
    topic = topics.monitor_control(service) if is_agent else topics.service_control(service)
    # An agent may publish only below its own name.
    response_topic = topics.data(service, key) if is_agent else topics.answers(operator, key)
    client = RequestClient(
        settings.broker_address(),
        Identity(operator, f"{operator}/control-{key}"),
        token_source(signing_key(settings), Role.ADMIN, operator, env),
        answers=response_topic,
    )
    try:
        async with client.connected():
            # Nobody knows how many workers there are.
            limit = 1 if is_agent else None
            answers = await client.request(topic, encode(order), response_topic, timeout=timeout, limit=limit)
    except RequestFailed as error:
        raise OperatorError(str(error)) from None
    return [_answer(payload) for payload in answers]


def operator_name() -> str:
    """Return the name of the user who runs the command; in a container, a user need not have a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def _answer(payload: bytes) -> ControlAnswer:
    try:
        return decode(payload, ControlAnswer)
    except Undecodable as error:
        return ControlAnswer(ok=False, service="?", command="", message=f"undecodable answer: {error}")
