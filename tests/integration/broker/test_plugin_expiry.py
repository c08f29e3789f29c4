"""Test that a connection ends when its token expires: in time, alone, and without loss for a session that returns."""

import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from auth.tokens import Role
from schema.topics import Topics
from testbed.broker import LocalBroker
from testbed.fixtures.broker import PLUGIN_SOURCE, Broker
from testbed.fixtures.mqtt import MqttClient, Refused, Will, signed
from testbed.waiting import block_until

TOPICS = Topics("test")
NAME = "expiry1-x.test.mon.example"
SOON = timedelta(seconds=2)
LIMIT = 5.0
"""Maximum seconds until the broker ends a connection."""


def monitor(broker: Broker, lifetime: timedelta | None = None, **more: object) -> MqttClient:
    token = broker.token(Role.MONITOR, NAME, lifetime=lifetime)
    return MqttClient(broker.port, NAME, token, **more)  # type: ignore[arg-type]


def test_expired_client_is_disconnected_within_5_seconds_and_others_stay(broker: Broker) -> None:
    expires = int(time.time()) + 2
    others = [
        MqttClient(broker.port, name, broker.token(Role.SERVER, name), client_id=client_id)
        for name, client_id in (("expiry", "expiry"), ("joe", "joe/stays"), ("expired", "expired/stays"))
    ]
    short = {
        version: MqttClient(
            broker.port,
            "expired",
            signed(broker.key, "expired", exp=expires, subs=["/test/#"]),
            client_id=f"expired/{version}",
            version=version,
        )
        for version in (4, 5)
    }
    for client in (*others, *short.values()):
        client.connect()
    reason = short[5].wait_lost(LIMIT + 2)
    ended = time.time()
    short[4].wait_lost(LIMIT)
    assert reason == "Administrative action", "a client of MQTT 5 is told"
    assert expires <= ended <= expires + LIMIT
    assert all(client.is_alive() for client in others)
    assert "jwt-auth: expired/5 is disconnected: the token has expired" in broker.log_text()
    with pytest.raises(Refused):
        short[5].connect()
    for client in others:
        client.close()


def test_session_with_an_expired_token_loses_no_messages(broker: Broker) -> None:
    with MqttClient(broker.port, "expiry", broker.token(Role.SERVER, "expiry"), client_id="expiry/writer") as server:
        assert server.subscribe(TOPICS.status(NAME))
        short = monitor(broker, SOON, keep=600, will=Will(TOPICS.status(NAME)))
        short.connect().subscribe(TOPICS.config(NAME))
        short.wait_lost(2 + LIMIT)
        assert server.receive()[0].payload == b"gone", "it vanished, so its will is sent"
        for number in range(5):
            server.publish(TOPICS.config(NAME), str(number))
        with monitor(broker, keep=600) as renewed:
            assert renewed.session_present
            server.publish(TOPICS.config(NAME), "5")
            assert [int(message.payload) for message in renewed.receive(6)] == list(range(6))
        monitor(broker).connect().close()


def test_client_that_renews_its_token_in_time_stays_connected(broker: Broker) -> None:
    with MqttClient(broker.port, "expiry", broker.token(Role.SERVER, "expiry"), client_id="expiry/renew") as server:
        first = monitor(broker, SOON, keep=600).connect()
        expires = time.time() + 2
        first.subscribe(TOPICS.config(NAME))
        with monitor(broker, keep=600) as renewed:
            block_until(lambda: time.time() > expires + 1.5)
            server.publish(TOPICS.config(NAME), "still here")
            assert [message.payload for message in renewed.receive()] == [b"still here"]
        first.vanish()
        monitor(broker).connect().close()


class PerListener(LocalBroker):
    """A broker with one listener that is followed by its settings, as ``per_listener_settings`` requires."""

    def configuration(self) -> str:
        lines = super().configuration().splitlines()
        first = next(at for at, line in enumerate(lines) if line.startswith("listener "))
        settings = [line for line in lines if line.startswith("plugin")]
        rest = [line for line in lines[: first + 1] if not line.startswith("plugin")]
        return "\n".join([*rest, "allow_anonymous false", *settings, ""])


def test_per_listener_settings_cannot_disable_token_expiry(tmp_path: Path) -> None:
    # The shipped plugin, except that it detects missed ticks sooner.
    subprocess.run(
        ["make", "--silent", "-C", PLUGIN_SOURCE, f"BUILD={tmp_path}", "CFLAGS=-O0 -Wno-error -DTICK_MISSED_SECONDS=1"],
        check=True,
    )
    changed = {
        "per_listener_settings false": "per_listener_settings true",
        "allow_anonymous false": "",
        "allow_zero_length_clientid false": "",
    }
    with Broker(kind=PerListener, changed=changed) as broker:
        broker.stop()
        broker.process.parts = replace(broker.process.parts, plugin=tmp_path / "jwt-auth.so")
        broker.start()
        eve = MqttClient(broker.port, "eve", signed(broker.key, "eve", exp=int(time.time()) + 2))

        def logins_are_refused() -> bool:
            try:
                MqttClient(broker.port, "joe", signed(broker.key)).connect().close()
            except Refused:
                return "set per_listener_settings to false" in broker.log_text()
            return False

        with suppress(Refused):
            eve.connect()
        # With such settings, 2.0.11 never ticks; newer versions do, and end the connection.
        block_until(lambda: "eve is disconnected: the token has expired" in broker.log_text() or logins_are_refused())
        eve.close()
