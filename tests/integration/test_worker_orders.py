"""Orders to a worker over a real broker: what is said now is obeyed, what the broker had kept is not."""

import asyncio

from fixtures.broker import Broker
from fixtures.running_ingest import DEADLINE, TOPICS, new_worker
from sqlalchemy.engine import Engine

from auth.tokens import Role
from runtime.broker import BrokerAddress, BrokerSession, Identity
from runtime.worker import Worker, take_orders
from schema.messages import ControlCommand, encode


async def test_an_order_is_for_now_and_not_for_whoever_comes_later(sqlite_engine: Engine, fresh_broker: Broker) -> None:
    carried_out: asyncio.Queue[str] = asyncio.Queue()

    async def note(order: ControlCommand) -> dict[str, object]:
        carried_out.put_nowait(order.command)
        return {}

    async with _admin(fresh_broker) as admin:
        topic = TOPICS.service_control("ingest")
        await admin.publish(topic, encode(ControlCommand(command="kept")), retain=True)
        with new_worker(sqlite_engine, fresh_broker) as worker:
            for name in ("kept", "said"):
                worker.control.add(name, note)
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(_listen(worker))
                async with asyncio.timeout(DEADLINE):
                    await worker.broker.wait_ready()
                    await admin.publish(topic, encode(ControlCommand(command="said")))
                    # What is retained comes first, right after the subscription.
                    assert await carried_out.get() == "said"
                running.cancel()
    assert carried_out.empty()


async def _listen(worker: Worker) -> None:
    async with asyncio.TaskGroup() as tasks:
        take_orders(worker, tasks)
        tasks.create_task(worker.broker.run())


class _admin:
    """A session of an operator."""

    def __init__(self, broker: Broker) -> None:
        self._session = BrokerSession(
            BrokerAddress("127.0.0.1", broker.port), Identity("boss", "boss"), lambda: broker.token(Role.ADMIN, "boss")
        )

    async def __aenter__(self) -> BrokerSession:
        self._running = asyncio.create_task(self._session.run())
        async with asyncio.timeout(DEADLINE):
            await self._session.wait_ready()
        return self._session

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.wait({self._running})
