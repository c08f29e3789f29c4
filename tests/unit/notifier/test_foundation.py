"""Test what the notifier says about database, nodes, broker and clock, as its process sees them."""

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy.engine import URL

from notifier.foundation import SETTLES_WITHIN, UNSETTLING, Foundation, node_urls
from notifier.rules import BROKER_AWAY, CLOCK_DOUBTED, DATABASE_AWAY, NODE_AWAY
from runtime.db.dsn import parse_dsn, servers_of
from runtime.health import Contact
from runtime.retry import Setback
from runtime.worker import Worker
from testbed.fixtures.manual_clock import ManualClock

NOW = datetime(2026, 1, 2, 12, 0, 0)


class World:
    """A worker with dependencies that a test takes away."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.contact = Contact(self.clock.monotonic)
        self.broker = SimpleNamespace(connected=True, address="mqtt://127.0.0.1:1883")
        self.doubt: str | None = None
        parts: Any = SimpleNamespace(contact=self.contact, broker=self.broker, clock=self)
        self.foundation = Foundation(cast(Worker, parts), self.clock.monotonic)

    def pass_seconds(self, seconds: float, *, database: bool = True) -> None:
        """Let time pass in steps of five seconds."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now += min(5.0, until - self.clock.now)
            if database:
                self.contact.succeeded("work")
            else:
                self.contact.failed("work", Setback("Can't connect to MySQL server on '10.0.0.1'"))
            self.foundation.facts(NOW)

    def bad(self) -> dict[str, bool | None]:
        return {fact.key.kind: fact.bad for fact in self.foundation.facts(NOW)}


def test_all_is_well() -> None:
    world = World()
    world.foundation.expect_broker()
    world.pass_seconds(10)
    assert world.bad() == {DATABASE_AWAY: False, BROKER_AWAY: False, CLOCK_DOUBTED: False}


def test_a_database_that_refuses_is_away_since_it_last_answered() -> None:
    world = World()
    world.pass_seconds(10)
    world.pass_seconds(65, database=False)
    [fact] = [fact for fact in world.foundation.facts(NOW) if fact.key.kind == DATABASE_AWAY]
    assert (fact.bad, fact.detail) == (True, "Can't connect to MySQL server on '10.0.0.1'")
    assert fact.since == NOW - timedelta(seconds=60)


def test_a_database_that_answers_no_more_is_away() -> None:
    world = World()
    world.clock.now += 31
    assert world.bad()[DATABASE_AWAY] is True


def test_the_broker_is_not_known_before_the_session_begins() -> None:
    world = World()
    world.broker.connected = False
    assert world.bad()[BROKER_AWAY] is None
    world.foundation.expect_broker()
    assert world.bad()[BROKER_AWAY] is True


def test_a_doubted_clock() -> None:
    world = World()
    world.doubt = "is 20 s ahead of the database's"
    assert world.bad()[CLOCK_DOUBTED] is True


def test_nodes() -> None:
    world = World()
    world.foundation.nodes = {"db1": None, "db2:3307": "refused"}
    found = {fact.name: (fact.bad, fact.detail) for fact in world.foundation.facts(NOW) if fact.key.kind == NODE_AWAY}
    assert found == {"db1": (False, "works"), "db2:3307": (True, "refused")}


def test_presence_is_out_of_date_for_a_while_after_the_start_and_after_a_long_outage() -> None:
    world = World()
    assert not world.foundation.settled
    world.pass_seconds(SETTLES_WITHIN + 5)
    assert world.foundation.settled
    world.pass_seconds(UNSETTLING - 10, database=False)
    world.pass_seconds(10)
    assert world.foundation.settled, "agents have not missed a refresh"
    world.pass_seconds(UNSETTLING + 10, database=False)
    world.pass_seconds(SETTLES_WITHIN - 10)
    assert not world.foundation.settled
    world.pass_seconds(20)
    assert world.foundation.settled


def test_short_interruptions_of_the_broker_again_and_again_hide_no_monitor() -> None:
    world = World()
    world.foundation.expect_broker()
    world.pass_seconds(SETTLES_WITHIN + 5)
    for _ in range(100):
        world.broker.connected = False
        world.pass_seconds(30)
        world.broker.connected = True
        world.pass_seconds(30)
        assert world.foundation.settled


def test_each_node_is_asked_with_the_user_and_database_of_the_ledger() -> None:
    url = URL.create("mysql+pymysql", "ntp", "secret", "proxy", 3300, "ntppool")
    found = node_urls(url, "db1, db2:3307,[2001:db8::3]:3308, [2001:db8::4]")
    assert {name: (node.host, node.port) for name, node in found.items()} == {
        "db1": ("db1", 3300),
        "db2:3307": ("db2", 3307),
        "[2001:db8::3]:3308": ("2001:db8::3", 3308),
        "[2001:db8::4]": ("2001:db8::4", 3300),
    }
    assert all((node.username, node.password, node.database) == ("ntp", "secret", "ntppool") for node in found.values())
    assert node_urls(url, "") == {}


def test_servers_of_the_ledger_are_watched_if_there_are_several() -> None:
    url = parse_dsn("mysql://ntp:secret@db1,db2:3307/ntppool")
    found = node_urls(url, "")
    assert {name: (node.host, node.port) for name, node in found.items()} == {
        "db1": ("db1", None),
        "db2:3307": ("db2", 3307),
    }
    assert all(servers_of(node) == [node] for node in found.values()), "each is asked alone"
    assert [*node_urls(url, "db3")] == ["db3"]
    assert servers_of(node_urls(url, "db3")["db3"])[0].host == "db3"
