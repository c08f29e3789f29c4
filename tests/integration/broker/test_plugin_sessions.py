"""Test rights that outlast a connection: retained messages, resumed sessions, wills, and duplicate clients."""

import pytest

from auth.tokens import Role
from schema.topics import Topics
from testbed.fixtures.broker import Broker
from testbed.fixtures.mqtt import MqttClient, Will, signed
from testbed.waiting import block_until

TOPICS = Topics("test")
NAME = "sessions1-x.test.mon.example"
OTHER = "sessions2-x.test.mon.example"


def server(broker: Broker, client_id: str = "selector/sessions", **more: object) -> MqttClient:
    name = client_id.partition("/")[0]
    return MqttClient(broker.port, name, broker.token(Role.SERVER, name), client_id=client_id, **more)  # type: ignore[arg-type]


def admin(broker: Broker, client_id: str = "joe/sessions", **more: object) -> MqttClient:
    return MqttClient(broker.port, "joe", broker.token(Role.ADMIN, "joe"), client_id=client_id, **more)  # type: ignore[arg-type]


def monitor(broker: Broker, **more: object) -> MqttClient:
    return MqttClient(broker.port, NAME, broker.token(Role.MONITOR, NAME), **more)  # type: ignore[arg-type]


def test_retained_messages_survive_their_publisher_and_a_broker_restart(fresh_broker: Broker) -> None:
    with server(fresh_broker, "selector/1") as selector:
        for number in range(50):
            selector.publish(TOPICS.assignment(NAME, "v4", number), "{}", retain=True)
            selector.publish(TOPICS.assignment(OTHER, "v4", number), "{}", retain=True)
    for _ in range(2):
        with monitor(fresh_broker) as agent:
            agent.subscribe(TOPICS.assignments(NAME))
            got = agent.receive(50)
            assert {message.topic for message in got} == {TOPICS.assignment(NAME, "v4", n) for n in range(50)}
        fresh_broker.restart()


def test_retained_messages_survive_with_check_retain_source() -> None:
    with Broker(changed={"check_retain_source false": "check_retain_source true"}) as broker:
        with server(broker, "selector/1") as selector:
            selector.publish(TOPICS.config(NAME), "1", retain=True)
        for _ in range(2):
            with monitor(broker) as agent:
                agent.subscribe(TOPICS.config(NAME))
                assert [message.payload for message in agent.receive()] == [b"1"]
            broker.restart()


def test_session_receives_messages_published_while_it_was_offline(broker: Broker) -> None:
    with server(broker) as selector:
        with monitor(broker, keep=600) as agent:
            agent.subscribe(TOPICS.config(NAME))
        for number in range(20):
            selector.publish(TOPICS.config(NAME), str(number))
        with monitor(broker, keep=600) as agent:
            assert agent.session_present
            assert [int(message.payload) for message in agent.receive(20)] == list(range(20))
        monitor(broker).connect().close()


def test_session_survives_a_broker_restart_and_gets_queued_messages(fresh_broker: Broker) -> None:
    with monitor(fresh_broker, keep=600) as agent:
        agent.subscribe(TOPICS.config(NAME))
    fresh_broker.restart()
    with server(fresh_broker) as selector:
        selector.publish(TOPICS.config(NAME), "after the restart")
    with monitor(fresh_broker, keep=600) as agent:
        assert agent.session_present
        assert [message.payload for message in agent.receive()] == [b"after the restart"]


def test_restored_session_gets_no_messages_it_may_no_longer_read(fresh_broker: Broker) -> None:
    def joe(*subs: str) -> MqttClient:
        return MqttClient(fresh_broker.port, "joe", signed(fresh_broker.key, subs=subs), keep=600)

    with joe("/test/#") as first:
        first.subscribe("/test/#")
    fresh_broker.restart()
    with server(fresh_broker) as writer:
        for topic in ("/test/a", "/test/b"):
            writer.publish(topic, "queued")
    with joe("/test/b") as returned:
        assert returned.session_present
        assert [message.topic for message in returned.receive()] == ["/test/b"]


def test_client_keeps_its_rights_after_taking_over_its_own_session(broker: Broker) -> None:
    with server(broker) as selector:
        first, second = monitor(broker, keep=600), monitor(broker, keep=600)
        first.connect().subscribe(TOPICS.config(NAME))
        with second:
            assert first.wait_lost()
            assert second.session_present
            for number in range(3):
                assert second.publish(TOPICS.status(NAME), str(number)) != "Not authorized"
                selector.publish(TOPICS.config(NAME), str(number))
            assert len(second.receive(3)) == 3
            assert second.subscribe(TOPICS.acks(NAME, "v4"))
        first.vanish()
        monitor(broker).connect().close()


# --- wills --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 600])
@pytest.mark.parametrize("delay", [0, 1])
def test_will_is_sent_only_to_topics_that_its_owner_may_publish_to(broker: Broker, keep: int, delay: int) -> None:
    with server(broker) as listener:
        asked = (TOPICS.config(NAME), TOPICS.status(OTHER), TOPICS.status(NAME))
        for topic in asked:
            assert listener.subscribe(topic)
        for topic in asked:
            monitor(broker, will=Will(topic, "gone", delay), keep=keep).connect().vanish()
        assert [message.topic for message in listener.receive()] == [TOPICS.status(NAME)]
    if delay == 0:
        block_until(lambda: f"the will of {NAME} on {TOPICS.config(NAME)} is refused" in broker.log_text())
    monitor(broker).connect().close()


def test_will_is_not_sent_after_a_clean_disconnect(broker: Broker) -> None:
    with server(broker) as listener:
        listener.subscribe(TOPICS.status(NAME))
        monitor(broker, will=Will(TOPICS.status(NAME))).connect().close()
        monitor(broker).connect().publish(TOPICS.status(NAME), "later")
        assert [message.payload for message in listener.receive()] == [b"later"]


def test_will_of_a_taken_over_client_is_checked(broker: Broker) -> None:
    with server(broker) as listener:
        asked = (TOPICS.status(OTHER), TOPICS.status(NAME))
        for topic in asked:
            assert listener.subscribe(topic)
        for topic in asked:
            first = monitor(broker, will=Will(topic)).connect()
            monitor(broker).connect().close()
            first.vanish()
        assert [message.topic for message in listener.receive()] == [TOPICS.status(NAME)]


CONTROL = [TOPICS.service_control("ingest"), TOPICS.monitor_control(NAME)]


@pytest.mark.parametrize("topic", CONTROL)
@pytest.mark.parametrize("delay", [0, 1])
def test_wills_cannot_send_control_commands(broker: Broker, topic: str, delay: int) -> None:
    forged = (("sender", "bob"),)
    with server(broker) as listener:
        assert listener.subscribe(topic)
        admin(broker, will=Will(topic, "order", delay, user_properties=forged)).connect().vanish()
        taken = admin(broker, "joe/taken", will=Will(topic, "order", user_properties=forged)).connect()
        admin(broker, "joe/taken").connect().close()
        taken.vanish()
        block_until(lambda: f"the will of joe/taken on {topic} is refused" in broker.log_text())
        if delay:
            # The broker checks delayed wills once a second.
            block_until(lambda: f"the will of joe/sessions on {topic} is refused" in broker.log_text())
        with admin(broker, "joe/last") as last:
            last.publish(topic, "last")
        assert [message.payload for message in listener.receive()] == [b"last"]


@pytest.mark.parametrize("retain", [False, True])
def test_wills_sent_on_broker_shutdown_cannot_send_control_commands(fresh_broker: Broker, retain: bool) -> None:
    def listener() -> MqttClient:
        return server(fresh_broker, "ingest/listener", keep=600)

    with listener() as before:
        for topic in ("/test/control/#", "/test/topics/#"):
            before.subscribe(topic)
    forged = Will(CONTROL[0], "order", retain=retain, user_properties=(("sender", "bob"),))
    allowed = Will("/test/topics/will", "allowed", retain=retain)
    wills = [admin(fresh_broker, f"joe/{i}", will=will).connect() for i, will in enumerate((forged, allowed))]
    fresh_broker.restart()
    for will in wills:
        will.vanish()
    with listener() as after:
        assert after.session_present
        assert [message.payload for message in after.receive()] == [b"allowed"]
        assert after.subscribe("/test/control/ingest")
        with admin(fresh_broker) as last:
            last.publish(CONTROL[0], "last")
        assert {message.payload for message in after.receive()} == {b"last"}
