"""Check the broker for ``api ok``: connect, log in as the monitor, and publish a message that nothing reads.

It is a session of its own, so that a running agent keeps its own.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from agent.check_steps import Step, broker_step, login_step, publish_step
from agent.login import Login
from agent.reconnect import refuses_credentials
from runtime.mqtt.session import BrokerSession, Identity, Lost, NotConnected, PublishRefused
from runtime.mqtt.socket import Unreachable, open_socket
from runtime.mqtt.types import TlsUnusable

ANSWER_WITHIN: Final = 20.0
"""Seconds for the login."""

AFTER_CONNECTING: Final = ("login", "publish")


async def check_broker(login: Login, token: str, topic: str, add: Callable[[Step], bool], shown: str = "token") -> None:
    """Check each step.

    Args:
        topic: on which this monitor may publish.
        add: called with each step; returns whether the next ones make sense.
        shown: which token it is, in words.
    """
    if not add(await _reach(login)):
        for name in AFTER_CONNECTING:
            add(Step(name, "skipped", "without a connection"))
        return
    lost: asyncio.Future[Lost] = asyncio.get_running_loop().create_future()

    def on_lost(why: Lost) -> None:
        if not lost.done():
            lost.set_result(why)

    name = login.state.name
    session = BrokerSession(
        login.tls.address, Identity(name, f"{name}/api-ok"), lambda: token, on_lost=on_lost, tls=login.tls
    )
    running = asyncio.create_task(session.run())
    try:
        used = f"{shown} and certificate" if login.tls.address.cert_file else f"{shown}, without a certificate"
        if add(await _log_in(session, lost, used)):
            add(await _publish(session, topic))
        else:
            add(Step("publish", "skipped", "without a login"))
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def _reach(login: Login) -> Step:
    address = login.tls.address
    try:
        (await open_socket(address.host, address.port, login.tls.context())).close()
    except TlsUnusable as error:
        return Step("broker", "failed", str(error), "remove certificate and key, and the agent makes new ones")
    except Unreachable as error:
        return broker_step(str(address), str(error))
    return broker_step(str(address), None)


async def _log_in(session: BrokerSession, lost: "asyncio.Future[Lost]", used: str) -> Step:
    ready = asyncio.ensure_future(session.wait_ready())
    outcomes: set[asyncio.Future[Any]] = {ready, lost}
    await asyncio.wait(outcomes, timeout=ANSWER_WITHIN, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if session.connected:
        return login_step(None, refused=False, used=used)
    if lost.done():
        return login_step(lost.result().reason, refused=refuses_credentials(lost.result()))
    return login_step(f"the broker does not answer within {ANSWER_WITHIN:g} s", refused=False)


async def _publish(session: BrokerSession, topic: str) -> Step:
    try:
        await session.publish(topic, b"")
    except (NotConnected, PublishRefused) as error:
        return publish_step(topic, str(error))
    return publish_step(topic, None)
