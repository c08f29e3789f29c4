"""Test the permissions of a logged-in client on the real broker: subscribing, publishing and receiving."""

import pytest

from auth.tokens import Role
from schema.topics import Topics
from testbed.fixtures.broker import Broker
from testbed.fixtures.mqtt import MqttClient, connected, signed

NAME = "topics1-x.test.mon.example"
OTHER = "topics2-y.test.mon.example"
TOPICS = Topics("test")
NOT_AUTHORIZED = "Not authorized"


def client(broker: Broker, role: Role, name: str = "joe", version: int = 5) -> MqttClient:
    return MqttClient(broker.port, name, broker.token(role, name), client_id=f"{name}/topics", version=version)


def granted(broker: Broker, subs: list[str], asked: str) -> bool:
    with MqttClient(broker.port, "joe", signed(broker.key, subs=subs)) as joe:
        return joe.subscribe(asked)


# --- roles --------------------------------------------------------------------------------------------

OWN_FILTERS = [
    TOPICS.request(NAME, "+"),
    TOPICS.request(NAME, "ntp"),
    TOPICS.config(NAME),
    TOPICS.assignments(NAME),
    TOPICS.assignment(NAME, "v4", "+"),
    TOPICS.assignment(NAME, "+", 7),
    TOPICS.acks(NAME, "+"),
    TOPICS.acks(NAME, "v6"),
    TOPICS.monitor_control(NAME),
]
FOREIGN_FILTERS = [
    "#",
    "+/#",
    "/#",
    "/test/#",
    "/test/monitors/#",
    "/test/monitors/requests/+/+",
    "/test/monitors/requests/#",
    f"/test/monitors/requests/{NAME}/#",
    f"/test/monitors/requests/{NAME}",
    f"/test/monitors/requests/{NAME}/ntp/x",
    f"/test/monitors/+/{NAME}",
    TOPICS.config("+"),
    TOPICS.config(OTHER),
    TOPICS.config(NAME) + "/x",
    TOPICS.assignments(OTHER),
    TOPICS.results(NAME, "v4"),
    TOPICS.status(NAME),
    TOPICS.service_control("ingest"),
    f"/prod/monitors/config/{NAME}",
    "$SYS/#",
    "$SYS/broker/version",
    f"$share/x/{TOPICS.config(NAME)}",
    f"$share/x/{TOPICS.assignments(NAME)}",
    "$share/ingest//test/monitors/results/+/+",
    "$share/x/#",
]


def test_monitor_may_subscribe_only_to_its_own_topics(broker: Broker) -> None:
    with client(broker, Role.MONITOR, NAME) as monitor:
        assert [f for f in OWN_FILTERS if not monitor.subscribe(f)] == []
        assert [f for f in FOREIGN_FILTERS if monitor.subscribe(f)] == []


def test_monitor_may_publish_only_to_its_own_topics(broker: Broker) -> None:
    own = [TOPICS.status(NAME), TOPICS.api_test(NAME), TOPICS.results(NAME, "v4"), TOPICS.data(NAME, "01J")]
    foreign = [
        *(TOPICS.status(OTHER), TOPICS.results(OTHER, "v4"), TOPICS.data(OTHER, "01J")),
        *(TOPICS.config(NAME), TOPICS.assignment(NAME, "v4", 1), TOPICS.acks(NAME, "v4"), TOPICS.request(NAME, "ntp")),
        *(TOPICS.monitor_control(NAME), TOPICS.service_control("ingest"), TOPICS.score_event(1)),
        *(TOPICS.results(NAME, "v4") + "/x", TOPICS.results(NAME, "v4").replace("/test/", "/prod/"), "x"),
        *("$SYS/broker/version", "$SYS/broker/connection/x/state", f"$share/x/{TOPICS.status(NAME)}"),
    ]
    monitor, server = client(broker, Role.MONITOR, NAME), client(broker, Role.SERVER, "ingest")
    with connected(monitor, server):
        server.subscribe("/test/#")
        assert [t for t in own if monitor.publish(t, "own") == NOT_AUTHORIZED] == []
        assert [t for t in foreign if monitor.publish(t, "foreign") != NOT_AUTHORIZED] == []
        monitor.publish(own[0], "last")
        seen = []
        while "last" not in seen:
            # Other tests may have left retained messages.
            seen += [message.payload.decode() for message in server.receive() if not message.retain]
        assert seen == ["own"] * len(own) + ["last"]
        assert monitor.is_alive()


def test_denied_publish_at_qos_0_or_2_is_dropped_without_disconnection(broker: Broker) -> None:
    observer, server = client(broker, Role.OBSERVER), client(broker, Role.SERVER, "ingest")
    with connected(observer, server):
        server.subscribe("/test/topics/qos")
        for qos in (0, 2):
            observer.publish("/test/topics/qos", "denied", qos=qos)
        assert observer.is_alive()
        server.publish("/test/topics/qos", "allowed")
        assert [message.payload for message in server.receive()] == [b"allowed"]


@pytest.mark.parametrize("role", [Role.SERVER, Role.ADMIN])
def test_server_and_admin_may_use_every_topic_of_their_environment(broker: Broker, role: Role) -> None:
    with client(broker, role) as joe:
        for topic in ("/test/#", "/test/monitors/+/+", "/test/control/x", "/test"):
            assert joe.subscribe(topic), topic
        for topic in ("#", "/#", "+/test/#", "/+/#", "/prod/#", "test/#", "$SYS/#"):
            assert not joe.subscribe(topic), topic
        assert joe.publish("/test/topics/x", "x") != NOT_AUTHORIZED
        assert joe.publish("/prod/topics/x", "x") == NOT_AUTHORIZED


def test_only_the_server_role_may_share_subscriptions(broker: Broker) -> None:
    share = "$share/ingest//test/monitors/results/+/+"
    for role in Role:
        name = NAME if role is Role.MONITOR else "joe"
        with client(broker, role, name) as somebody:
            assert somebody.subscribe(share) == (role is Role.SERVER)


@pytest.mark.parametrize("role", [Role.OBSERVER, Role.EXPORTER])
def test_observer_and_exporter_may_not_publish(broker: Broker, role: Role) -> None:
    with client(broker, role) as joe:
        for topic in ("/test/topics/x", "$SYS/x", "x"):
            assert joe.publish(topic, "x") == NOT_AUTHORIZED


@pytest.mark.parametrize("version", [4, 5])
def test_exporter_may_subscribe_only_to_the_metrics_of_the_broker(broker: Broker, version: int) -> None:
    with client(broker, Role.EXPORTER, version=version) as exporter:
        assert exporter.subscribe("$SYS/#")
        assert exporter.receive()[0].topic.startswith("$SYS/broker/")
        assert exporter.subscribe("$SYS/broker/clients/+")
        for topic in ("#", "/test/#", "+/broker/#", "$SYS", "$share/x/$SYS/#"):
            assert exporter.subscribe(topic) == (topic == "$SYS"), topic


# --- filters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subs", "asked", "expected"),
    [
        (["#"], "#", True),
        (["#"], "+/a", True),
        (["#"], "$SYS/#", False),
        (["#"], "$SYS/broker/version", False),
        (["+/#"], "$SYS/#", False),
        (["+/broker/version"], "$SYS/broker/version", False),
        (["$SYS/#"], "$SYS/broker/+", True),
        (["$SYS/#"], "#", False),
        (["/a/+"], "/a/#", False),
        (["/a/+"], "/a/+", True),
        (["/a/+"], "/a/b", True),
        (["/a/+"], "/a", False),
        (["/a/+"], "/a/b/c", False),
        (["/a/+/c"], "/a/+/+", False),
        (["/a/#"], "/a/#", True),
        (["/a/#"], "/a", True),
        (["/a/#"], "/a/+/b/#", True),
        (["/a/#"], "/+/b", False),
        (["/a/#"], "/ab", False),
        (["/a/b"], "/a/+", False),
        (["/a/b", "/a/c"], "/a/+", False),
        (["/a/b"], "/a/b/", False),
        (["/a//b"], "/a/+/b", False),
        (["/a/+/b"], "/a//b", True),
        ([], "/a", False),
        # Only a shared filter grants a shared subscription, and only a plain filter a plain one.
        (["/a/#"], "$share/g//a/b", False),
        (["$share/+//a/#"], "$share/g//a/b", True),
        (["$share/+//a/#"], "/a/b", False),
        (["$share/g//a/#"], "$share/g//a/+", True),
        (["$share/g//a/#"], "$share/h//a/+", False),
        (["$share/+//a/+"], "$share/g//a/#", False),
        (["$share/+//a/#"], "$share/g//b", False),
        (["$share/+/#"], "$share/g/$SYS/#", False),
        (["$share/+/#"], "$share/g/$share/h/#", False),
        # A filter that starts with "$share" is never taken for an ordinary topic.
        (["$share/#"], "$share/g//a", None),
        (["#", "+/+/#"], "$share/g/#", False),
        (["$sharex/#"], "$sharex/a", True),
    ],
)
def test_granted_filter_must_cover_the_whole_requested_one(
    broker: Broker, subs: list[str], asked: str, expected: bool | None
) -> None:
    if expected is None:
        with pytest.raises(Exception, match=NOT_AUTHORIZED):
            granted(broker, subs, asked)
    else:
        assert granted(broker, subs, asked) is expected


@pytest.mark.parametrize("asked", ["$share/", "$share/g", "$share/g/", "$share//x", "$share/+/x", "$share/#", "$share"])
def test_malformed_shared_filters_are_refused_or_end_the_connection(broker: Broker, asked: str) -> None:
    with MqttClient(broker.port, "joe", signed(broker.key, subs=["#", "$share/+/#"])) as joe:
        try:
            assert not joe.subscribe(asked)
        except AssertionError:
            assert joe.lost is not None
    assert granted(broker, ["#"], "x"), "the broker still runs"


def test_a_shared_subscription_splits_its_messages(broker: Broker) -> None:
    one, two = (
        MqttClient(broker.port, "ingest", broker.token(Role.SERVER, "ingest"), client_id=f"ingest/share{i}")
        for i in (1, 2)
    )
    publisher = client(broker, Role.ADMIN)
    with connected(one, two, publisher):
        for worker in (one, two):
            assert worker.subscribe("$share/split//test/topics/split")
        for number in range(10):
            publisher.publish("/test/topics/split", str(number))
        got = [sorted(int(message.payload) for message in worker.receive(5)) for worker in (one, two)]
        assert sorted(got[0] + got[1]) == list(range(10))


# --- receiving ----------------------------------------------------------------------------------------


def test_session_resumed_with_fewer_rights_receives_less(broker: Broker) -> None:
    def joe(*subs: str) -> MqttClient:
        return MqttClient(broker.port, "joe", signed(broker.key, subs=subs), client_id="joe/less", keep=60)

    writer = client(broker, Role.SERVER, "writer")
    with writer:
        first = joe("/test/less/#").connect()
        first.subscribe("/test/less/#")
        first.close()
        for name in ("a", "b"):
            writer.publish(f"/test/less/{name}", "queued")
        with joe("/test/less/b") as returned:
            assert returned.session_present
            for name in ("a", "b"):
                writer.publish(f"/test/less/{name}", "new")
            messages = [(m.topic, m.payload) for m in returned.receive(2)]
            assert messages == [("/test/less/b", b"queued"), ("/test/less/b", b"new")]
    MqttClient(broker.port, "joe", signed(broker.key), client_id="joe/less").connect().close()


def test_unsubscribing_is_always_allowed(broker: Broker) -> None:
    with client(broker, Role.EXPORTER) as exporter:
        assert exporter.subscribe_probe()
