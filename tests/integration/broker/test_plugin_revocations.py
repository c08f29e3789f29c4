"""Test that a revocation ends a monitor's sessions at once and for good, and nothing else."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from auth.tokens import Role
from schema.messages import RevokeTokens, encode
from schema.topics import Topics
from testbed.broker import LocalBroker
from testbed.fixtures.broker import Broker
from testbed.fixtures.mqtt import MqttClient, Refused, Will, connected, user_properties
from testbed.waiting import block_until

TOPICS = Topics("test")
NAME = "revoked1-x.test.mon.example"
OTHER = "revoked2-x.test.mon.example"
LIMIT = 5.0
"""Maximum seconds until the broker ends a connection."""
ACCEPTED = ("Success", "No matching subscribers")
REFUSED = "Not authorized"
SECOND = timedelta(seconds=1)


def client(
    broker: Broker,
    name: str = NAME,
    role: Role = Role.MONITOR,
    *,
    later: float = 0,
    client_id: str = "",
    **more: object,
) -> MqttClient:
    """Return a client whose token is issued ``later`` seconds from now."""
    token = broker.token(role, name, now=datetime.now(UTC) + later * SECOND)
    return MqttClient(broker.port, name, token, client_id=client_id or name, **more)  # type: ignore[arg-type]


def operator(broker: Broker, role: Role = Role.ADMIN) -> MqttClient:
    return client(broker, "ann", role, client_id=f"ann/{role}")


def order(name: str = NAME, until: float | None = None) -> str:
    return encode(RevokeTokens(name=name, issued_until=int(time.time() if until is None else until))).decode()


def revoke(broker: Broker, name: str = NAME, until: float | None = None, role: Role = Role.ADMIN) -> str:
    with operator(broker, role) as sender:
        return sender.publish(TOPICS.revocations, order(name, until))


def is_refused(of: MqttClient) -> bool:
    try:
        of.connect().close()
    except Refused:
        return True
    return False


@pytest.mark.parametrize("role", [Role.ADMIN, Role.SERVER])
def test_connections_of_the_monitor_end_and_its_tokens_are_refused(fresh_broker: Broker, role: Role) -> None:
    own = [client(fresh_broker), client(fresh_broker, client_id=f"{NAME}/once")]
    others = [
        client(fresh_broker, OTHER),
        client(fresh_broker, "ingest", Role.SERVER),
        client(fresh_broker, "joe", Role.ADMIN),
    ]
    with connected(*own, *others):
        assert revoke(fresh_broker, role=role) in ACCEPTED
        assert {one.wait_lost(LIMIT) for one in own} == {"Administrative action"}
        assert all(other.is_alive() for other in others)
        with pytest.raises(Refused, match=REFUSED):
            own[0].connect()
        log = fresh_broker.log_text()
        assert f"the tokens of {NAME} issued until " in log
        assert ", by ann" in log
        assert f"jwt-auth: {NAME}/once is disconnected: the token has been revoked" in log
        assert f"login of {NAME} from 127.0.0.1 refused: the token has been revoked" in log
        with client(fresh_broker, later=2) as back:
            assert back.is_alive()
            assert revoke(fresh_broker) in ACCEPTED
            assert back.is_alive(), "its token was issued later"


def test_time_of_issue_decides(fresh_broker: Broker) -> None:
    begin = int(time.time())
    clients = {
        offset: client(fresh_broker, client_id=f"{NAME}/{offset}", later=begin + offset - time.time() + 0.5)
        for offset in (-10, -1, 0, 1)
    }
    with ExitStack() as logins:
        for one in clients.values():
            logins.enter_context(one)
        for until, lost in ((begin - 2, [-10]), (begin - 9, []), (begin, [-1, 0])):
            assert revoke(fresh_broker, until=until) in ACCEPTED
            for offset in lost:
                clients.pop(offset).wait_lost(LIMIT)
            assert all(one.is_alive() for one in clients.values())
    assert list(clients) == [1]


def test_token_without_time_of_issue_is_revoked(fresh_broker: Broker) -> None:
    claims = {"sub": NAME, "role": "monitor", "subs": [], "publ": [], "nbf": 0, "exp": int(time.time()) + 600}
    token = fresh_broker.key.encode(claims)
    with MqttClient(fresh_broker.port, NAME, token) as monitor:
        assert revoke(fresh_broker, until=time.time() - 6 * 3600) in ACCEPTED
        monitor.wait_lost(LIMIT)
        assert is_refused(monitor)


def test_only_monitors_tokens_can_be_revoked(fresh_broker: Broker) -> None:
    worker = client(fresh_broker, "ingest", Role.SERVER)
    with worker:
        assert revoke(fresh_broker, "ingest") in ACCEPTED
        with client(fresh_broker, "ingest", Role.SERVER, client_id="ingest/2") as second:
            assert second.is_alive()
        assert worker.is_alive()


def test_order_about_tokens_that_have_expired_changes_nothing(fresh_broker: Broker) -> None:
    assert revoke(fresh_broker, until=time.time() - 8 * 3600) in ACCEPTED
    assert not (fresh_broker.process.directory / "revocations").exists()
    assert "are revoked" not in fresh_broker.log_text()


# --- who, and what ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.MONITOR, Role.OBSERVER, Role.EXPORTER])
def test_others_may_not_revoke(broker: Broker, role: Role) -> None:
    name = OTHER if role is Role.MONITOR else "eve"
    with client(broker) as monitor, client(broker, name, role, client_id=f"{name}/revokes") as sender:
        assert sender.publish(TOPICS.revocations, order()) == REFUSED
        assert monitor.is_alive()
    assert not is_refused(monitor)


def test_role_decides_even_if_the_topic_is_granted(broker: Broker) -> None:
    now = int(time.time())
    claims = {"sub": OTHER, "role": "monitor", "subs": [], "publ": ["/test/#"], "iat": now, "nbf": now, "exp": now + 60}
    with MqttClient(broker.port, OTHER, broker.key.encode(claims)) as monitor:
        assert monitor.publish(TOPICS.revocations, order()) == REFUSED
    assert f"a revocation by {OTHER} is refused: its role does not permit it" in broker.log_text()
    assert not is_refused(client(broker))


@pytest.mark.parametrize(
    "payload", ["", "{}", "no", f'{{"name": "{NAME}"}}', order("a/b", until=1), order(until=1) + "x" * 2000]
)
def test_invalid_order_is_refused_and_the_connection_stays(broker: Broker, payload: str) -> None:
    with client(broker) as monitor, operator(broker) as sender:
        assert sender.publish(TOPICS.revocations, payload) == REFUSED
        assert sender.is_alive() and monitor.is_alive()
    assert "a revocation by ann is refused: it must be JSON such as" in broker.log_text()


def test_order_for_the_future_is_refused(broker: Broker) -> None:
    assert revoke(broker, until=time.time() + 200) == REFUSED
    assert "a revocation by ann is refused: its time is in the future" in broker.log_text()
    assert not is_refused(client(broker))


def test_retained_order_is_refused_and_a_will_revokes_nothing(broker: Broker) -> None:
    will = Will(TOPICS.revocations, order())
    sender = MqttClient(broker.port, "ann", broker.token(Role.ADMIN, "ann"), client_id="ann/will", will=will).connect()
    assert sender.publish(TOPICS.revocations, order(), retain=True) == REFUSED
    before = broker.vanished()
    sender.vanish()
    block_until(lambda: broker.vanished() > before)
    assert not is_refused(client(broker))


def test_watchers_see_the_order_with_its_sender(broker: Broker) -> None:
    with client(broker, "joe", Role.OBSERVER, client_id="joe/watch") as watch:
        assert watch.subscribe(TOPICS.everything)
        assert revoke(broker, "nobody.test.mon.example", role=Role.SERVER) == "Success"
        (message,) = watch.receive()
        assert (message.topic, user_properties(message)) == (TOPICS.revocations, [("sender", "ann")])


def test_flood_is_limited_and_repeated_orders_are_not(fresh_broker: Broker) -> None:
    now = time.time()
    with operator(fresh_broker) as sender:
        began = time.monotonic()
        answers = [sender.publish(TOPICS.revocations, order(f"flood{number}", now)) for number in range(600)]
        accepted = sum(answer in ACCEPTED for answer in answers)
        assert 256 <= accepted <= 256 + 32 * (time.monotonic() - began + 1)
        assert all(sender.publish(TOPICS.revocations, order("flood0", now - n)) in ACCEPTED for n in range(300))
    assert "too many revocations at once" in fresh_broker.log_text() or accepted == 600


# --- sessions -----------------------------------------------------------------------------------------


def test_kept_session_gets_nothing_until_its_owner_returns(fresh_broker: Broker) -> None:
    will = Will(TOPICS.status(NAME), "forged", delay=0)
    connections = [client(fresh_broker, client_id=f"{NAME}/{number}", keep=600, will=will) for number in range(2)]
    with client(fresh_broker, "selector", Role.SERVER) as selector:
        assert selector.subscribe(TOPICS.status(NAME))
        for one in connections:
            assert one.connect().subscribe(TOPICS.config(NAME))
        connections[0].close()
        assert revoke(fresh_broker) in ACCEPTED
        connections[1].wait_lost(LIMIT)
        selector.publish(TOPICS.config(NAME), "secret")
        for number in range(2):
            with client(fresh_broker, client_id=f"{NAME}/{number}", keep=600, later=2) as back:
                assert back.session_present
                selector.publish(TOPICS.config(NAME), f"for {number}")
                assert [message.payload for message in back.receive()] == [f"for {number}".encode()]
        selector.publish(TOPICS.status(NAME), "last")
        assert [message.payload for message in selector.receive()] == [b"last"], "no will was sent"


def test_message_queued_for_a_session_from_before_a_restart_is_not_kept(fresh_broker: Broker) -> None:
    with client(fresh_broker, keep=600) as monitor:
        assert monitor.subscribe(TOPICS.config(NAME))
    with client(fresh_broker, OTHER, keep=600) as other:
        assert other.subscribe(TOPICS.config(OTHER))
    assert revoke(fresh_broker) in ACCEPTED
    fresh_broker.restart()
    with client(fresh_broker, "selector", Role.SERVER) as selector:
        for name in (NAME, OTHER):
            selector.publish(TOPICS.config(name), "secret")
        with client(fresh_broker, OTHER, keep=600) as other:
            assert [message.payload for message in other.receive()] == [b"secret"]
        with client(fresh_broker, keep=600, later=2) as back:
            assert back.session_present
            selector.publish(TOPICS.config(NAME), "now")
            assert [message.payload for message in back.receive()] == [b"now"]


# --- the broker's memory ------------------------------------------------------------------------------


def reload(broker: Broker) -> None:
    count = broker.log_text().count("tokens are checked")
    broker.sighup()
    block_until(lambda: broker.log_text().count("tokens are checked") > count)


def test_revocation_survives_reload_restart_and_kill(fresh_broker: Broker) -> None:
    monitor, other = client(fresh_broker), client(fresh_broker, OTHER)
    assert revoke(fresh_broker) in ACCEPTED

    def start_after_kill() -> None:
        fresh_broker.kill()
        fresh_broker.start()

    for disturb in (lambda: reload(fresh_broker), fresh_broker.restart, start_after_kill):
        disturb()
        assert is_refused(monitor)
        assert not is_refused(other)


def test_broker_starts_with_a_damaged_file(fresh_broker: Broker) -> None:
    monitor, other = client(fresh_broker), client(fresh_broker, OTHER)
    assert revoke(fresh_broker) in ACCEPTED
    fresh_broker.stop()
    file = fresh_broker.process.directory / "revocations"
    file.write_bytes(b"\xff\x00 garbage\n" + file.read_bytes() + f"{10**14} {OTHER}\n17".encode())
    fresh_broker.start()
    said = f"revocations file {file}: is damaged: 2 lines are ignored, 1 with an impossible time"
    assert said in fresh_broker.log_text()
    assert is_refused(monitor) and is_refused(other)
    assert not is_refused(client(fresh_broker, OTHER, later=10)), "nobody is locked out for ever"
    assert revoke(fresh_broker, OTHER) in ACCEPTED
    assert b"garbage" not in file.read_bytes()


def test_sender_is_told_until_the_revocation_is_saved(fresh_broker: Broker) -> None:
    obstacle = fresh_broker.process.directory / "revocations.new"
    obstacle.mkdir()
    with client(fresh_broker) as monitor:
        assert revoke(fresh_broker, until=time.time() + 60) == REFUSED
        monitor.wait_lost(LIMIT)
        assert "it is in force, but could not be saved" in fresh_broker.log_text()
        until = time.time()
        assert revoke(fresh_broker, until=until) == REFUSED
        obstacle.rmdir()
        assert revoke(fresh_broker, until=until) in ACCEPTED
        fresh_broker.restart()
        assert is_refused(monitor)


class WithoutFile(LocalBroker):
    """A broker with a configuration from before revocations."""

    def configuration(self) -> str:
        lines = super().configuration().splitlines()
        return "\n".join(line for line in lines if not line.startswith("plugin_opt_revocations_file")) + "\n"


@pytest.fixture
def forgetful() -> Iterator[Broker]:
    with Broker(kind=WithoutFile) as running:
        yield running


def test_without_a_file_revocations_hold_until_the_broker_ends(forgetful: Broker) -> None:
    assert "plugin_opt_revocations_file is not set: revocations are forgotten" in forgetful.log_text()
    monitor = client(forgetful)
    assert revoke(forgetful) in ACCEPTED
    reload(forgetful)
    assert is_refused(monitor)
    forgetful.restart()
    assert not is_refused(monitor)
