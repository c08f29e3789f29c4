"""Test what the project needs of a broker that is not Mosquitto: tokens by their claim ``acl``, and delivery.

With rmqtt, alone and as a cluster of three, if ``scripts/bootstrap --broker`` has built it.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from auth.tokens import Role, SigningKey, load_key, sign
from schema.topics import ANY, Topics, shared
from testbed.broker_process import BrokerUnavailable
from testbed.broker_rmqtt import RmqttNode, find_program, make_cluster
from testbed.brokers import new_token_key
from testbed.fixtures.mqtt import MqttClient, Refused, signed

try:
    find_program()
except BrokerUnavailable as missing:
    pytest.skip(str(missing), allow_module_level=True)

TOPICS = Topics("test")
NAME, OTHER = "abc1-1a2b3c4.test.mon.example", "abc2-1a2b3c4.test.mon.example"
KEY = load_key(new_token_key())


@pytest.fixture(scope="module", params=[1, 3], ids=["alone", "cluster"])
def nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[RmqttNode]]:
    made = make_cluster(tmp_path_factory.mktemp("rmqtt") / "broker", KEY.verification_text(), request.param)
    with ExitStack() as stack:
        for node in made:
            stack.enter_context(node)
        yield made


def client(node: RmqttNode, role: Role, name: str, *, key: SigningKey = KEY, own: bool = False) -> MqttClient:
    client_id = name if own else f"{name}/{secrets.token_hex(4)}"
    return MqttClient(node.port, name, sign(key, role, name, "test"), client_id=client_id)


def sends(sender: MqttClient, topic: str, text: str, *, retain: bool = False) -> bool:
    """Publish; return whether the broker accepted it."""
    return sender.publish(topic, text, retain=retain) in ("Success", "No matching subscribers")


def test_monitor_may_do_what_its_token_grants_and_nothing_else(nodes: Sequence[RmqttNode]) -> None:
    with client(nodes[-1], Role.MONITOR, NAME) as monitor:
        assert monitor.subscribe(TOPICS.assignments(NAME))
        assert monitor.subscribe(TOPICS.acks(NAME, ANY))
        for refused in (TOPICS.assignments(OTHER), TOPICS.everything, "#", TOPICS.results(ANY, ANY)):
            assert not monitor.subscribe(refused), refused
        assert not monitor.subscribe(shared("ingest", TOPICS.results(ANY, ANY))), "it would take others' results"
        assert sends(monitor, TOPICS.results(NAME, "v4"), "x")
        assert sends(monitor, TOPICS.status(NAME), "x", retain=True)
        for refused in (TOPICS.results(OTHER, "v4"), TOPICS.service_control("ingest"), TOPICS.status(OTHER)):
            assert not sends(monitor, refused, "x"), refused
        assert not sends(monitor, TOPICS.results(NAME, "v4"), "x", retain=True), "only its status may be retained"
        assert monitor.is_alive()


def test_invalid_tokens_are_refused(nodes: Sequence[RmqttNode]) -> None:
    forged = client(nodes[0], Role.SERVER, "ingest", key=load_key(new_token_key()))
    expired = MqttClient(nodes[0].port, "joe", signed(KEY, "joe", exp=1))
    of_another = MqttClient(nodes[0].port, "ann", sign(KEY, Role.ADMIN, "joe", "test"))
    for wrong in (forged, expired, of_another, MqttClient(nodes[0].port, None, None)):
        with pytest.raises(Refused):
            wrong.connect()


def test_tokens_and_keys_are_not_in_the_log(nodes: Sequence[RmqttNode]) -> None:
    token = signed(KEY, "joe", exp=1)
    with pytest.raises(Refused):
        MqttClient(nodes[0].port, "joe", token).connect()
    for node in nodes:
        assert token not in node.log_text()
        assert (Path(node.directory) / "broker.json").stat().st_mode & 0o077 == 0


def test_group_gets_each_message_once_whatever_node_it_is_at(nodes: Sequence[RmqttNode]) -> None:
    name = f"share{secrets.token_hex(3)}-x.test.mon.example"
    workers = [client(node, Role.SERVER, "ingest") for node in (*nodes, nodes[0])]
    with client(nodes[-1], Role.MONITOR, name) as monitor, ExitStack() as stack:
        for worker in workers:
            stack.enter_context(worker)
            assert worker.subscribe(shared("ingest", TOPICS.results(ANY, ANY)))
        sent = [str(number) for number in range(40)]
        for text in sent:
            assert sends(monitor, TOPICS.results(name, "v4"), text)

        def received() -> list[str]:
            texts = []
            for worker in workers:
                worker.pump(lambda: False, timeout=0.05)
                texts += [m.payload.decode() for m in worker.messages if name in m.topic]
            return sorted(texts)

        for _ in range(100):
            if len(received()) >= len(sent):
                break
        assert received() == sorted(sent)
        takers = sum(any(name in m.topic for m in worker.messages) for worker in workers)
        assert takers > 1, "they share the work"


def test_retained_message_reaches_a_later_subscriber_at_another_node(nodes: Sequence[RmqttNode]) -> None:
    name = f"ret{secrets.token_hex(3)}-x.test.mon.example"
    with client(nodes[0], Role.SERVER, "selector") as selector:
        assert sends(selector, TOPICS.assignment(name, "v4", 1), "one", retain=True)
        assert sends(selector, TOPICS.assignment(name, "v4", 2), "two", retain=True)
        assert sends(selector, TOPICS.assignment(name, "v4", 1), "", retain=True)
        with client(nodes[-1], Role.MONITOR, name) as monitor:
            assert monitor.subscribe(TOPICS.assignments(name))
            [message] = monitor.receive()
            assert (message.topic, message.payload, message.retain) == (
                TOPICS.assignment(name, "v4", 2),
                b"two",
                True,
            )


def test_kept_session_gets_what_was_sent_meanwhile_at_another_node(nodes: Sequence[RmqttNode]) -> None:
    name = f"kept{secrets.token_hex(3)}-x.test.mon.example"

    def monitor(node: RmqttNode) -> MqttClient:
        return MqttClient(node.port, name, sign(KEY, Role.MONITOR, name, "test"), client_id=name, keep=3600)

    with monitor(nodes[0]) as first:
        assert first.subscribe(TOPICS.acks(name, ANY))
    with client(nodes[0], Role.SERVER, "ingest") as ingest:
        assert sends(ingest, TOPICS.acks(name, "v4"), "ack")
    with monitor(nodes[-1]) as again:
        assert again.session_present
        [message] = again.receive()
        assert message.payload == b"ack"
