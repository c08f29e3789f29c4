"""Test that a withdrawn key leaves nothing behind: no rights, wills, shares of a group, or queued messages."""

import os
import re
import secrets
import subprocess
import textwrap
from collections.abc import Iterator

import pytest

from auth.tokens import Role, SigningKey, load_key, sign
from schema.topics import Topics, shared
from testbed.fixtures.broker import Broker
from testbed.fixtures.clock import ClockedBroker
from testbed.fixtures.mqtt import MqttClient, Refused, Will, signed
from testbed.paths import CHECKOUT
from testbed.waiting import block_until

TOPICS = Topics("test")
NAME = "withdrawn1-x.test.mon.example"
RESULTS = TOPICS.results("+", "+")
SHARE = shared("ingest", RESULTS)


def new_key() -> SigningKey:
    return load_key(secrets.token_urlsafe(48))


def client(broker: Broker, key: SigningKey, name: str = "eve", **more: object) -> MqttClient:
    role = Role.MONITOR if name == NAME else Role.SERVER
    return MqttClient(broker.port, name, sign(key, role, name, "test"), **more)  # type: ignore[arg-type]


def reload_with(broker: Broker, key: SigningKey, previous: SigningKey | None = None) -> None:
    count = broker.log_text().count("tokens are checked")
    broker.rotate(key, previous)
    broker.sighup()
    block_until(lambda: broker.log_text().count("tokens are checked") > count)


def results_for(worker: MqttClient, broker: Broker, key: SigningKey, count: int = 20) -> list[int]:
    """Publish ``count`` results, and return the numbers of those that the worker receives."""
    with client(broker, key, NAME, client_id=f"{NAME}/results") as monitor:
        for number in range(count):
            assert monitor.publish(TOPICS.results(NAME, "v4"), str(number)) == "Success"
    assert worker.is_alive()
    return [int(message.payload) for message in worker.receive(0)]


# --- wills --------------------------------------------------------------------------------------------


@pytest.fixture
def clocked_broker() -> Iterator[ClockedBroker]:
    with ClockedBroker() as running:
        yield running


@pytest.mark.parametrize("keep", [0, 600])
@pytest.mark.parametrize("retain", [False, True])
def test_delayed_will_is_not_sent_after_its_key_is_withdrawn(
    clocked_broker: ClockedBroker, keep: int, retain: bool
) -> None:
    broker = clocked_broker
    stolen, new = broker.key, new_key()
    reload_with(broker, new, previous=stolen)
    with client(broker, new, "watch") as watch:
        assert watch.subscribe(TOPICS.status(NAME))
        assert watch.subscribe("/test/withdrawn/#")
        forged = Will(TOPICS.status(NAME), "forged", delay=60, retain=retain)
        client(broker, stolen, "eve", will=forged, keep=keep).connect().vanish()
        client(broker, stolen, NAME, will=forged, keep=keep).connect().vanish()
        honest = Will("/test/withdrawn/honest", "honest", delay=60)
        client(broker, new, "joe", will=honest, keep=keep).connect().vanish()
        block_until(lambda: broker.vanished() == 3)
        reload_with(broker, new)
        broker.set_ahead(75)
        assert [message.payload for message in watch.receive()] == [b"honest"]
        for name in ("eve", NAME):
            refused = f"the will of {name} on {TOPICS.status(NAME)} is refused"
            block_until(lambda refused=refused: refused in broker.log_text())  # type: ignore[misc]


def test_will_is_not_sent_if_withdrawing_the_key_ends_the_connection(fresh_broker: Broker) -> None:
    stolen, new = fresh_broker.key, new_key()
    forged = [
        client(fresh_broker, stolen, f"eve{keep}", keep=keep, will=Will("/test/withdrawn/x", "forged")).connect()
        for keep in (0, 600)
    ]
    reload_with(fresh_broker, new, previous=stolen)
    with client(fresh_broker, new, "watch") as watch:
        assert watch.subscribe("/test/withdrawn/#")
        reload_with(fresh_broker, new)
        assert [eve.wait_lost(5) for eve in forged] == ["Administrative action"] * 2
        watch.publish("/test/withdrawn/x", "last")
        assert [message.payload for message in watch.receive()] == [b"last"]


def test_forged_will_is_not_sent_when_the_owner_takes_over_the_session(fresh_broker: Broker) -> None:
    stolen, new = fresh_broker.key, new_key()
    forged = Will(TOPICS.status(NAME), "forged", delay=600)
    client(fresh_broker, stolen, NAME, keep=900, will=forged).connect().vanish()
    block_until(lambda: fresh_broker.vanished() == 1)
    reload_with(fresh_broker, new)
    with client(fresh_broker, new, "watch") as watch:
        assert watch.subscribe(TOPICS.status(NAME))
        with client(fresh_broker, new, NAME) as owner:
            owner.publish(TOPICS.status(NAME), "honest")
        assert [message.payload for message in watch.receive()] == [b"honest"]


# --- sessions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("connected", [True, False])
def test_durable_session_with_a_withdrawn_key_loses_its_group_share(fresh_broker: Broker, connected: bool) -> None:
    stolen, new = fresh_broker.key, new_key()
    reload_with(fresh_broker, new, previous=stolen)
    with client(fresh_broker, new, "ingest") as worker:
        assert worker.subscribe(SHARE)
        forged = [client(fresh_broker, stolen, client_id=f"eve/{number}", keep=600) for number in range(3)]
        for eve in forged:
            assert eve.connect().subscribe(SHARE)
            if not connected:
                eve.vanish()
        reload_with(fresh_broker, new)
        if connected:
            for eve in forged:
                eve.wait_lost(5)
        assert results_for(worker, fresh_broker, new) == list(range(20))


@pytest.mark.parametrize("way", ["vanish", "close"])
def test_a_share_of_a_group_never_outlives_its_connection(fresh_broker: Broker, way: str) -> None:
    with client(fresh_broker, fresh_broker.key, "ingest") as worker:
        assert worker.subscribe(SHARE)
        for number in range(3):
            other = client(fresh_broker, fresh_broker.key, "ingest", client_id=f"ingest/{number}", keep=600).connect()
            assert other.subscribe(SHARE)
            assert other.subscribe(TOPICS.status(NAME))
            getattr(other, way)()
        block_until(lambda: fresh_broker.vanished() + fresh_broker.log_text().count("disconnected.") == 3)
        # The plugin checks within one turn of the broker's loop; the login in results_for() takes longer than that.
        assert results_for(worker, fresh_broker, fresh_broker.key) == list(range(20))
        worker.publish(TOPICS.status(NAME), "kept")
    with client(fresh_broker, fresh_broker.key, "ingest", client_id="ingest/0", keep=600) as back:
        assert back.session_present
        assert [message.payload for message in back.receive()] == [b"kept"], "its other subscriptions stay"


def test_nothing_is_queued_until_the_owner_logs_in_with_a_valid_key(fresh_broker: Broker) -> None:
    stolen, new = fresh_broker.key, new_key()
    with client(fresh_broker, stolen, "joe", keep=600) as forged:
        assert forged.subscribe("/test/withdrawn/#")
    reload_with(fresh_broker, new)
    with client(fresh_broker, new, "writer") as writer:
        for number in range(10):
            writer.publish("/test/withdrawn/x", str(number))
        with client(fresh_broker, new, "joe", keep=600) as owner:
            assert owner.session_present
            writer.publish("/test/withdrawn/x", "now")
            assert [message.payload for message in owner.receive()] == [b"now"]


def test_agent_that_returns_with_a_new_token_resumes_its_session(fresh_broker: Broker) -> None:
    old, new = fresh_broker.key, new_key()
    agent = client(fresh_broker, old, NAME, keep=600).connect()
    filters = [TOPICS.config(NAME), TOPICS.assignments(NAME), TOPICS.acks(NAME, "+"), TOPICS.request(NAME, "+")]
    assert all(agent.subscribe(filter_) for filter_ in filters)
    reload_with(fresh_broker, new)
    agent.wait_lost(5)
    with client(fresh_broker, new, NAME, keep=600) as back, client(fresh_broker, new, "selector") as selector:
        assert back.session_present
        for topic in (TOPICS.config(NAME), TOPICS.assignment(NAME, "v4", 1), TOPICS.acks(NAME, "v6")):
            selector.publish(topic, "{}")
        assert len(back.receive(3)) == 3
        assert back.publish(TOPICS.status(NAME), "{}") == "Success" or back.is_alive()


def test_restored_session_with_a_withdrawn_key_gets_nothing(fresh_broker: Broker) -> None:
    stolen, new = fresh_broker.key, new_key()
    with client(fresh_broker, stolen, "joe", keep=600) as forged:
        assert forged.subscribe("/test/withdrawn/#")
    fresh_broker.restart()
    for _ in range(2):
        reload_with(fresh_broker, new)
    with client(fresh_broker, new, "writer") as writer:
        writer.publish("/test/withdrawn/x", "queued")
        with client(fresh_broker, new, "joe", keep=600) as owner:
            assert owner.session_present
            writer.publish("/test/withdrawn/x", "now")
            assert [message.payload for message in owner.receive()] == [b"now"]


def test_rotation_loses_no_messages_for_clients_with_the_new_key(fresh_broker: Broker) -> None:
    old, new = fresh_broker.key, new_key()
    reload_with(fresh_broker, new, previous=old)
    with client(fresh_broker, new, "joe", keep=600) as early:
        assert early.subscribe("/test/withdrawn/#")
    reload_with(fresh_broker, new, previous=None)
    with client(fresh_broker, new, "writer") as writer:
        writer.publish("/test/withdrawn/x", "queued")
    with client(fresh_broker, new, "joe", keep=600) as back:
        assert [message.payload for message in back.receive()] == [b"queued"]


def test_restoring_a_withdrawn_key_does_not_restore_its_sessions(fresh_broker: Broker) -> None:
    old, new = fresh_broker.key, new_key()
    with client(fresh_broker, old, "joe", keep=600) as forged:
        assert forged.subscribe("/test/withdrawn/#")
    reload_with(fresh_broker, new)
    reload_with(fresh_broker, new, previous=old)
    with client(fresh_broker, new, "writer") as writer:
        writer.publish("/test/withdrawn/x", "queued")
        with client(fresh_broker, new, "joe", keep=600) as owner:
            writer.publish("/test/withdrawn/x", "now")
            assert [message.payload for message in owner.receive()] == [b"now"]


def test_sessions_with_a_withdrawn_key_do_not_count_against_the_owner(fresh_broker: Broker) -> None:
    stolen, new = fresh_broker.key, new_key()
    for number in range(8):
        client(fresh_broker, stolen, NAME, client_id=f"{NAME}/{number}", keep=600).connect().close()
    with pytest.raises(Refused):
        client(fresh_broker, stolen, NAME, client_id=f"{NAME}/once").connect()
    reload_with(fresh_broker, new)
    client(fresh_broker, new, NAME, client_id=f"{NAME}/once").connect().close()


# --- the procedure of broker-config/README.md ---------------------------------------------------------


README = (CHECKOUT / "broker-config" / "README.md").read_text(encoding="utf-8")
STEPS = re.findall(
    r"```sh\n(.*?)```", README.partition("### When a key has become known")[2].partition("\n### ")[0], re.DOTALL
)


def follow(step: str, broker: Broker) -> None:
    """Run a step of the procedure with the test's paths, group and broker, which is not a systemd unit."""
    directory = broker.process.directory
    here = re.sub(r"/(etc|var/lib)/ntppool-monitor/broker/prod", str(directory), textwrap.dedent(step))
    units = {"reload": broker.sighup, "stop": broker.stop, "start": broker.start}
    for line in here.replace("chgrp mosquitto", f"chgrp {os.getgid()}").splitlines():
        if line.startswith("systemctl "):
            _, verb, unit = line.split()
            assert unit == "ntppool-broker@prod"
            units[verb]()
        else:
            subprocess.run(["bash", "-ec", line], cwd=directory, check=True)


def test_procedure_for_a_stolen_key_leaves_nothing_of_its_holder(fresh_broker: Broker) -> None:
    stolen = fresh_broker.key
    with client(fresh_broker, stolen) as eve:
        for topic in (TOPICS.config(NAME), TOPICS.status(NAME), TOPICS.assignment(NAME, "v4", 1)):
            eve.publish(topic, "forged", retain=True)
    will = Will(TOPICS.status(NAME), "forged", delay=1, retain=True)
    client(fresh_broker, stolen, client_id="eve/away", keep=600, will=will).connect().vanish()
    live = client(fresh_broker, stolen, client_id="eve/live", keep=600, will=will).connect()
    assert live.subscribe(SHARE)
    (fresh_broker.process.directory / "jwt-previous.key").write_text(new_key().verification_text())
    withdrawing, removing = STEPS
    follow(withdrawing, fresh_broker)
    live.wait_lost(5)
    file = fresh_broker.process.directory / "jwt.key"
    assert file.stat().st_mode & 0o777 == 0o640
    assert "previous" not in fresh_broker.log_text().rpartition("tokens are checked")[2]
    # The processes that sign tokens have the new key as well.
    new = load_key(file.read_text())
    fresh_broker.process.set_keys(new.verification_text())
    follow(removing, fresh_broker)
    with client(fresh_broker, new, "ingest") as worker:
        assert worker.subscribe("/test/#")
        worker.publish("/test/withdrawn/last", "last")
        assert [message.payload for message in worker.receive()] == [b"last"]
        assert worker.subscribe(SHARE)
        assert set(results_for(worker, fresh_broker, new)) == set(range(20))
    for client_id in ("eve/away", "eve/live"):
        with client(fresh_broker, new, client_id=client_id, keep=600) as back:
            assert not back.session_present
    with pytest.raises(Refused):
        client(fresh_broker, stolen).connect()


# --- the log ------------------------------------------------------------------------------------------


def test_keys_and_tokens_in_any_field_of_a_client_are_not_logged(fresh_broker: Broker) -> None:
    secret = fresh_broker.key.verification_text()
    token = signed(fresh_broker.key, "joe", publ=["/test/#"])
    quoted = [secret, secret[:16], secret[-16:], f"a{secret[20:40]}b", token, f"x/{token}", token.split(".")[1]]
    marks = {secret[at : at + 16] for at in range(len(secret) - 15)} | {part[:30] for part in token.split(".")[1:]}
    for text in quoted:
        with client(fresh_broker, fresh_broker.key, NAME) as monitor:
            assert not monitor.subscribe(f"/test/{text}")
            assert monitor.publish(f"/test/{text}", "x") == "Not authorized"
        client(fresh_broker, fresh_broker.key, NAME, will=Will(f"/test/{text}")).connect().vanish()
        for name, client_id in (("joe", text), ("joe", f"joe/{text}"), (text, text), (text, "joe")):
            with pytest.raises(Refused):
                MqttClient(fresh_broker.port, name, f"{token}x", client_id=client_id).connect()
        MqttClient(fresh_broker.port, "joe", token, client_id="joe").connect().close()
    block_until(lambda: fresh_broker.log_text().count("on (not shown) is refused") == len(quoted))
    log = fresh_broker.log_text()
    assert log.count("may not subscribe to (not shown)") == len(quoted)
    assert [line for line in log.splitlines() if any(mark in line for mark in marks)] == []


def test_log_contains_no_terminal_control_characters(fresh_broker: Broker) -> None:
    with client(fresh_broker, fresh_broker.key, NAME) as monitor:
        for odd in ("\x1b[2J", "\x7f", "\x9b31m", "\n"):
            monitor.connect()
            try:
                monitor.subscribe(f"/test/{odd}")
            except AssertionError:
                assert monitor.lost is not None, "the broker may take it for malformed"
    assert all(line.isprintable() for line in fresh_broker.log_text().splitlines())
