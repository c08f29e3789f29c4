"""Test requests through a real broker: answers, and errors if the broker is unavailable or refuses."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from auth.tokens import Role
from runtime.mqtt.request import RequestClient, RequestFailed, new_key
from runtime.mqtt.session import BrokerSession, Incoming, Subscription
from runtime.mqtt.types import BrokerAddress, Identity
from schema.topics import ANY, Topics
from testbed.fixtures.broker import Broker
from testbed.waiting import PATIENCE

TOPICS = Topics("test")
SERVICE = TOPICS.service_control("request-test")


def new_client(broker: Broker, answers: str, role: Role = Role.ADMIN, name: str = "request-test") -> RequestClient:
    return RequestClient(broker.address, Identity(name, name), lambda: broker.token(role, name), answers=answers)


@asynccontextmanager
async def responders(broker: Broker, count: int) -> AsyncIterator[None]:
    """Workers that answer with their number and the payload of the request."""
    tasks: set[asyncio.Task[None]] = set()

    def responder(number: int) -> BrokerSession:
        def on_request(message: Incoming) -> None:
            assert message.response_topic is not None and message.correlation is not None
            answer = b"%d " % number + message.payload
            publishing = session.publish(message.response_topic, answer, correlation=message.correlation)
            tasks.add(asyncio.create_task(publishing))

        session = BrokerSession(
            broker.address,
            Identity("responder", f"responder/{number}"),
            lambda: broker.token(Role.SERVER, "responder"),
            subscriptions=[Subscription(SERVICE, on_request)],
        )
        return session

    async with asyncio.TaskGroup() as group:
        sessions = [responder(number) for number in range(count)]
        running = [group.create_task(session.run()) for session in sessions]
        for session in sessions:
            await session.wait_ready()
        yield
        for task in running:
            task.cancel()


async def test_each_request_gets_the_answers_of_all_workers(broker: Broker) -> None:
    client = new_client(broker, TOPICS.answers("request-test", ANY))
    async with responders(broker, 3), client.connected(), asyncio.timeout(PATIENCE):
        asked = [
            client.request(SERVICE, b"%d" % n, TOPICS.answers("request-test", new_key()), timeout=PATIENCE, limit=3)
            for n in range(2)
        ]
        for n, answers in enumerate(await asyncio.gather(*asked)):
            assert sorted(answers) == [b"%d %d" % (number, n) for number in range(3)]


async def test_unreachable_broker_is_reported_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = BrokerAddress("127.0.0.1", unused.getsockname()[1])
        client = RequestClient(address, Identity("me", "me"), lambda: "token", answers="#", broker_within_seconds=600.0)
        async with asyncio.timeout(60):
            with pytest.raises(RequestFailed, match=rf"^broker {address}: .*refused"):
                async with client.connected():
                    pytest.fail("there is no broker")


async def test_silent_broker_fails_after_the_given_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = BrokerAddress("127.0.0.1", silent.getsockname()[1])
        client = RequestClient(address, Identity("me", "me"), lambda: "token", answers="#", broker_within_seconds=0.1)
        with pytest.raises(RequestFailed, match=rf"^broker {address}: no connection within 0\.1 s$"):
            async with client.connected():
                pytest.fail("the broker says nothing")


async def test_refusals_by_the_broker_are_reported(broker: Broker) -> None:
    client = new_client(broker, "/devel/answers/+")
    with pytest.raises(RequestFailed, match="not allowed to subscribe to /devel/answers/"):
        async with client.connected():
            pytest.fail("that is another environment")
    client = new_client(broker, TOPICS.answers("request-test", ANY), Role.OBSERVER)
    async with client.connected():
        with pytest.raises(RequestFailed, match=r"^broker: .*[Nn]ot authorized"):
            await client.request(SERVICE, b"{}", TOPICS.answers("request-test", "1"), timeout=PATIENCE)
