"""Test the history of servers and monitors, and undecodable messages, on every database."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from ops.days import parse_since
from ops.errors import OperatorError, UsageError
from ops.history import monitor_history, server_history
from ops.rejected import list_rejected, payload_for_json, show_rejected
from runtime.db.engine import reading, transaction
from schema.tables import assignment_changes, rejected_messages
from testbed.fixtures.world import add_log_score, add_monitor, add_scorer, add_server, monitor_name

NOW = datetime(2026, 11, 23, 12, 0, 0)
LONG_AGO = NOW - timedelta(days=90)
T = TypeVar("T")


def write(engine: Engine, work: Callable[[Connection], T]) -> T:
    return transaction(engine, work)


def read(engine: Engine, work: Callable[[Connection], T]) -> T:
    with reading(engine) as connection:
        return work(connection)


def move(engine: Engine, server: int, monitor: int, ago: float, before: str | None, after: str, reason: str) -> None:
    row = {
        "server_id": server,
        "monitor_id": monitor,
        "before_status": before,
        "after_status": after,
        "reason": reason,
        "changed_on": NOW - timedelta(hours=ago),
    }
    write(engine, lambda c: c.execute(sa.insert(assignment_changes).values(row)))


@pytest.fixture
def world(engine: Engine) -> tuple[int, int, int]:
    """Return a server that lost its score and its monitor, another server, and the monitor."""
    server = write(engine, lambda c: add_server(c, "192.0.2.1"))
    other = write(engine, lambda c: add_server(c, "192.0.2.2"))
    monitor = write(engine, lambda c: add_monitor(c, monitor_name("m")))
    scorer = write(engine, add_scorer)
    move(engine, server, monitor, 40, None, "candidate", "new pair")
    move(engine, server, monitor, 30, "candidate", "testing", "rule 5: a place is free")
    move(engine, other, monitor, 20, "testing", "active", "rule 3: a place is free")
    move(engine, server, monitor, 10, "testing", "candidate", "rule 2: unhealthy")
    for ago, score in ((35, 9.0), (34, 12.0), (33, 14.0), (12, 10.0), (11, 5.0), (5, 9.9), (4, 10.1)):
        at = NOW - timedelta(hours=ago)
        write(engine, lambda c, at=at, s=score: add_log_score(c, server, scorer, at, score=s, offset=None))  # type: ignore[misc]
    # The score of a monitor's pair is not a score of the server.
    write(engine, lambda c: add_log_score(c, server, monitor, NOW - timedelta(hours=13), score=-99.0))
    return server, other, monitor


def hours(rows: list[Any]) -> list[float]:
    return [(NOW - row[0]).total_seconds() / 3600 for row in rows]


def test_server_history_shows_when_and_why_it_left_the_pool(engine: Engine, world: tuple[int, int, int]) -> None:
    rows = read(engine, lambda c: server_history(c, world[0], LONG_AGO, 50))
    name, scorer = monitor_name("m"), "recentmedian.scores.ntp.dev"
    assert [row[1:] for row in rows] == [
        (name, "new -> candidate", "new pair"),
        (scorer, "score 9.0 -> 12.0", "handed out from now on"),
        (name, "candidate -> testing", "rule 5: a place is free"),
        (scorer, "score 14.0 -> 10.0", "no longer handed out"),
        (name, "testing -> candidate", "rule 2: unhealthy"),
        (scorer, "score 9.9 -> 10.1", "handed out from now on"),
    ]
    assert hours(rows) == [40, 34, 30, 12, 10, 4]


def test_monitor_history_shows_its_status_changes_at_all_servers(engine: Engine, world: tuple[int, int, int]) -> None:
    rows = read(engine, lambda c: monitor_history(c, world[2], LONG_AGO, 50))
    assert [row[1:3] for row in rows] == [
        ("192.0.2.1", "new -> candidate"),
        ("192.0.2.1", "candidate -> testing"),
        ("192.0.2.2", "testing -> active"),
        ("192.0.2.1", "testing -> candidate"),
    ]


def test_history_can_be_limited_by_count_and_start(engine: Engine, world: tuple[int, int, int]) -> None:
    server, _, monitor = world
    assert hours(read(engine, lambda c: server_history(c, server, LONG_AGO, 2))) == [10, 4]
    assert hours(read(engine, lambda c: monitor_history(c, monitor, LONG_AGO, 2))) == [20, 10]
    since = NOW - timedelta(hours=30)
    assert hours(read(engine, lambda c: server_history(c, server, since, 50))) == [30, 12, 10, 4]
    assert hours(read(engine, lambda c: monitor_history(c, monitor, since, 50))) == [30, 20, 10]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-01", datetime(2026, 11, 1)),
        ("7d", NOW - timedelta(days=7)),
        ("12h", NOW - timedelta(hours=12)),
        ("1h30m", NOW - timedelta(minutes=90)),
    ],
)
def test_since_accepts_a_day_or_an_age(text: str, moment: datetime) -> None:
    assert parse_since(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-11-01x", "99999d999", "99999d99", "7", "-1h"])
def test_invalid_since_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--since .*: must be a day such as 2026-11-30, or an age such as 12h or 7d"):
        parse_since(text, NOW)


def test_age_beyond_the_earliest_date_is_refused() -> None:
    with pytest.raises(UsageError, match="--since"):
        parse_since("99999d", datetime(100, 1, 1))


# ---- rejected messages -----------------------------------------------------------------------------------------------


def reject(engine: Engine, topic: str, payload: bytes, ago: float) -> int:
    row = {
        "topic": topic,
        "payload_hash": f"{topic}{ago}"[:64],
        "reason": "no JSON",
        "payload": payload,
        "bytes": len(payload) + 1,
        "times": 3,
        "first_seen": NOW - timedelta(days=2),
        "last_seen": NOW - timedelta(hours=ago),
    }
    key = write(engine, lambda c: c.execute(sa.insert(rejected_messages).values(row)).inserted_primary_key)
    assert key is not None
    return int(key[0])


def test_undecodable_messages_are_listed_newest_first(engine: Engine) -> None:
    old = reject(engine, "/devel/monitors/results/a.devel.x/v4", b"\x1b[2J", 5)
    new = reject(engine, "/devel/monitors/results/b_c.devel.x/v4", b"{", 1)
    rows = read(engine, lambda c: list_rejected(c, 50))
    assert [row[0] for row in rows] == [new, old]
    assert rows[0][1:] == (NOW - timedelta(hours=1), 3, 2, "/devel/monitors/results/b_c.devel.x/v4", "no JSON")
    assert [row[0] for row in read(engine, lambda c: list_rejected(c, 1))] == [new]
    assert [row[0] for row in read(engine, lambda c: list_rejected(c, 50, "a.devel"))] == [old]
    assert read(engine, lambda c: list_rejected(c, 50, "b%")) == [], "no pattern"
    assert [row[0] for row in read(engine, lambda c: list_rejected(c, 50, "b_c"))] == [new]


def test_undecodable_message_is_shown_with_its_exact_payload(engine: Engine) -> None:
    payload = bytes(range(256)) * 200
    message = reject(engine, "/devel/monitors/results/a.devel.x/v4", payload, 5)
    fields, found = read(engine, lambda c: show_rejected(c, message))
    assert found == payload
    assert dict(fields)["bytes"] == 51_201 and dict(fields)["reason"] == "no JSON" and dict(fields)["times"] == 3
    with pytest.raises(OperatorError, match="message 999999: not found"):
        read(engine, lambda c: show_rejected(c, 999_999))


def test_payload_is_text_or_base64_in_json() -> None:
    assert json.loads(json.dumps(payload_for_json("é\x1b".encode()))) == {"payload": "é\x1b"}
    assert payload_for_json(b"\xff\x00") == {"payload_base64": "/wA="}
