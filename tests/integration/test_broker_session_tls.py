"""The broker session over TLS, whose records are decrypted whole while packets are taken in pieces."""

import asyncio
import secrets
from datetime import timedelta
from functools import partial

import pytest
from fixtures.broker import Broker

from auth.tokens import Role
from bench.local_tls import TlsBroker
from runtime.broker import BrokerAddress, BrokerSession, Identity, Incoming, Subscription
from schema.topics import Topics

TOPICS = Topics("test")
MANY = 400


def session(broker: Broker, process: TlsBroker, role: Role, name: str, *subscriptions: Subscription) -> BrokerSession:
    address = BrokerAddress("127.0.0.1", process.tls_port, process.ca_file)
    identity = Identity(name, name if role is Role.MONITOR else f"{name}/{secrets.token_hex(4)}")
    token = partial(broker.token, role, name)
    return BrokerSession(address, identity, token, subscriptions=subscriptions, keep=timedelta(hours=1))


@pytest.mark.parametrize("size", [1, 5_000, 500_000])
async def test_whatever_the_size_all_arrives_once_and_in_order(size: int) -> None:
    """Packets smaller than a record of TLS, and much larger."""
    name, found, complete = f"s{secrets.token_hex(4)}.test.mon.example", [], asyncio.Event()
    count = MANY if size < 100_000 else 5

    def take(message: Incoming) -> None:
        found.append(message.payload)
        if len(found) == count:
            complete.set()

    with Broker(kind=TlsBroker) as broker:
        process = broker.process
        assert isinstance(process, TlsBroker)
        topic = TOPICS.acks(name, "v4")
        monitor = session(broker, process, Role.MONITOR, name, Subscription(topic, take))
        worker = session(broker, process, Role.SERVER, "ingest")
        sent = [f"{number:05} ".encode() + secrets.token_bytes(size) for number in range(count)]
        running = [asyncio.create_task(one.run()) for one in (monitor, worker)]
        try:
            async with asyncio.timeout(30):
                await asyncio.gather(monitor.wait_ready(), worker.wait_ready())
                await asyncio.gather(*(worker.publish(topic, payload) for payload in sent))
                await complete.wait()
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
    assert found == sent
