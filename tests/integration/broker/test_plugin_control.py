"""Test that control commands carry their sender's name, which only the broker can write."""

import pytest

from auth.tokens import Role
from schema.topics import Topics
from testbed.fixtures.broker import Broker
from testbed.fixtures.mqtt import MqttClient, connected, user_properties

TOPICS = Topics("test")
NAME = "orders1-x.test.mon.example"
CONTROL = [TOPICS.service_control("scorer"), TOPICS.monitor_control(NAME), "/test/control", "/test/control/a/b"]


def client(broker: Broker, name: str, role: Role, **more: object) -> MqttClient:
    return MqttClient(broker.port, name, broker.token(role, name), client_id=f"{name}/orders", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("topic", CONTROL)
@pytest.mark.parametrize("qos", [0, 1])
def test_sender_is_stamped_and_forged_senders_are_removed(broker: Broker, topic: str, qos: int) -> None:
    worker, admin = client(broker, "scorer", Role.SERVER), client(broker, "ann", Role.ADMIN)
    forged = [("a", "1"), ("sender", "bob"), ("b", "2"), ("Sender", "eve"), ("sender", ""), ("a", "3"), ("", "")]
    with connected(worker, admin):
        worker.subscribe(topic)
        for properties in ([], forged):
            admin.publish(topic, "{}", qos=qos, props={"UserProperty": properties} if properties else None)
            (message,) = worker.receive()
            others = [pair for pair in properties if pair[0].lower() != "sender"]
            assert user_properties(message) == [*others, ("sender", "ann")]
            assert message.payload == b"{}"


def test_other_properties_of_a_control_command_are_preserved(broker: Broker) -> None:
    worker, admin = client(broker, "scorer", Role.SERVER), client(broker, "ann", Role.ADMIN)
    said: dict[str, object] = {
        "ContentType": "application/json",
        "ResponseTopic": "/test/answers/é",
        "CorrelationData": bytes(range(256)),
        "PayloadFormatIndicator": 1,
        "MessageExpiryInterval": 600,
        "UserProperty": [("traceparent", "00-é-01"), ("sender", "bob")],
    }
    with connected(worker, admin):
        worker.subscribe(CONTROL[0])
        admin.publish(CONTROL[0], "{}", props=said)
        (message,) = worker.receive()
        arrived = message.properties
        for name in ("ContentType", "ResponseTopic", "CorrelationData", "PayloadFormatIndicator"):
            assert getattr(arrived, name) == said[name]
        assert 590 <= getattr(arrived, "MessageExpiryInterval") <= 600  # noqa: B009  # paho sets it at run time
        assert user_properties(message) == [("traceparent", "00-é-01"), ("sender", "ann")]


def test_control_command_sent_with_mqtt_3_is_stamped(broker: Broker) -> None:
    worker, admin = client(broker, "scorer", Role.SERVER), client(broker, "ann", Role.ADMIN, version=4)
    with connected(worker, admin):
        worker.subscribe(CONTROL[0])
        admin.publish(CONTROL[0], "{}")
        assert user_properties(worker.receive()[0]) == [("sender", "ann")]


def test_stamp_is_the_user_name_rather_than_the_client_id(broker: Broker) -> None:
    worker = client(broker, "scorer", Role.SERVER)
    admin = MqttClient(broker.port, "ann", broker.token(Role.ADMIN, "ann"), client_id="ann/bob")
    with connected(worker, admin):
        worker.subscribe(CONTROL[0])
        admin.publish(CONTROL[0], "{}")
        assert user_properties(worker.receive()[0]) == [("sender", "ann")]


@pytest.mark.parametrize("topic", ["/test/events/x", "/test/monitors/x/control", "/test/x/control/y", "/test/controls"])
def test_messages_on_other_topics_are_left_unchanged(broker: Broker, topic: str) -> None:
    worker, server = client(broker, "scorer", Role.SERVER), client(broker, "ingest", Role.SERVER)
    with connected(worker, server):
        worker.subscribe(topic)
        server.publish(topic, "{}", props={"UserProperty": [("sender", "whoever")]})
        assert user_properties(worker.receive()[0]) == [("sender", "whoever")]


@pytest.mark.parametrize("topic", CONTROL)
def test_retained_control_command_is_refused(broker: Broker, topic: str) -> None:
    worker, admin = client(broker, "scorer", Role.SERVER), client(broker, "ann", Role.ADMIN)
    with connected(worker, admin):
        assert admin.publish(topic, "{}", retain=True) == "Not authorized"
        worker.subscribe(topic)
        admin.publish(topic, "now")
        assert [message.payload for message in worker.receive()] == [b"now"]


def test_monitor_may_not_send_control_commands(broker: Broker) -> None:
    with client(broker, NAME, Role.MONITOR) as monitor:
        for topic in CONTROL:
            assert monitor.publish(topic, "{}") == "Not authorized"


def test_many_control_commands_with_many_properties_are_stamped(broker: Broker) -> None:
    worker, admin = client(broker, "scorer", Role.SERVER), client(broker, "ann", Role.ADMIN)
    many = [(f"name{n}", "v" * n) for n in range(100)]
    with connected(worker, admin):
        worker.subscribe(CONTROL[0])
        for _ in range(50):
            admin.publish(CONTROL[0], "{}", props={"UserProperty": [("sender", "x"), *many]})
        assert all(user_properties(m) == [*many, ("sender", "ann")] for m in worker.receive(50))
