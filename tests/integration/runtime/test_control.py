"""Test control commands to a worker: new ones are executed, retained ones are not."""

import asyncio

from sqlalchemy.engine import Engine

from runtime.mqtt.session import Incoming
from runtime.worker import handle_commands
from schema.messages import ControlCommand, encode
from testbed.fixtures.broker import Broker
from testbed.fixtures.running_ingest import TOPICS, new_worker
from testbed.waiting import PATIENCE


async def test_retained_control_commands_are_ignored(sqlite_engine: Engine, broker: Broker) -> None:
    """Our broker refuses retained control commands; another broker may accept them."""
    carried_out: asyncio.Queue[str] = asyncio.Queue()

    async def note(order: ControlCommand) -> dict[str, object]:
        carried_out.put_nowait(order.command)
        return {}

    with new_worker(sqlite_engine, broker) as worker:
        for name in ("kept", "said"):
            worker.control.add(name, note)
        async with asyncio.TaskGroup() as tasks:
            handle_commands(worker, tasks)
            [subscription] = worker.broker._subscriptions
            assert subscription.topic_filter == "/test/control/ingest" == TOPICS.service_control("ingest")
            for name, kept in (("kept", True), ("said", False)):
                payload = encode(ControlCommand(command=name))
                subscription.handler(Incoming(subscription.topic_filter, payload, retain=kept))
            async with asyncio.timeout(PATIENCE):
                assert await carried_out.get() == "said"
    assert carried_out.empty()
