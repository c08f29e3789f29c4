"""Test that an incomplete set of retained messages is an error."""

import asyncio

import pytest

from runtime.mqtt.retained import read_retained
from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity, NotConnected
from testbed.fixtures.broker_sessions import running
from testbed.fixtures.wire import PUBLISH, patient_broker
from testbed.waiting import wait_until


@pytest.mark.parametrize("ends", [False, True])
async def test_retained_set_without_the_echo_is_an_error(ends: bool) -> None:
    async with patient_broker() as broker:
        session = BrokerSession(
            BrokerAddress("127.0.0.1", broker.port), Identity("a", "a"), lambda: "token", back_off=lambda *_: 3_600.0
        )
        async with running(session):
            timeout = 3_600.0 if ends else 0.05
            reading = asyncio.create_task(read_retained(session, "a/#", "echo", print, timeout=timeout))
            await wait_until(lambda: any(sent.kind == PUBLISH for sent in broker.last.heard))
            if ends:
                broker.last.peer.close()
            with pytest.raises(NotConnected, match="did not arrive completely"):
                await reading
