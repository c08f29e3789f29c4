"""Test what ends with a monitor, and what moves with it, on every database."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from auth.api_key_store import add_key, authenticate, list_keys, valid_key
from auth.deletion import Ended, delete_monitors
from auth.registration.model import Problem
from auth.registration.move import Moved, move_monitor
from runtime.db.engine import reading, transaction
from schema.tables import certificates, monitors
from testbed.fixtures.registering import NOW, OPERATOR, PEPPERS, account, monitor_rows, owner
from testbed.fixtures.world import add_monitor, monitor_name

NAME, OTHER = monitor_name("nlams1-4xhq2c9"), monitor_name("frpar1-4xhq2c9")
T = TypeVar("T")


def write(engine: Engine, work: Callable[[Connection], T]) -> T:
    return transaction(engine, work)


def host(engine: Engine, name: str, account_id: int) -> tuple[list[int], str]:
    """Add a host with both protocols, and return its monitors and its key."""
    ids = [
        write(engine, lambda c, v=ipv: add_monitor(c, name, v, account_id=account_id))  # type: ignore[misc]
        for ipv in ("v4", "v6")
    ]
    _, key = write(engine, lambda c: add_key(c, PEPPERS, NOW, account_id=account_id, monitor_ids=ids))
    return ids, key.clear


def add_certificate(engine: Engine, name: str, serial: str) -> None:
    row = {"serial": serial, "kind": "monitor", "name": name, "request_hash": "x", "chain": "x"}
    times = {"not_before": datetime(2026, 1, 1), "not_after": datetime(2027, 1, 1), "issued_on": datetime(2026, 1, 1)}
    write(engine, lambda c: c.execute(sa.insert(certificates).values(**row, **times)))


def is_valid(engine: Engine, key: str) -> bool:
    return authenticate(engine, PEPPERS, key, NOW) is not None


def test_key_and_certificates_end_with_the_last_protocol(engine: Engine) -> None:
    owned = account(engine, "4xhq2c9")
    (v4, v6), key = host(engine, NAME, owned)
    others, other_key = host(engine, OTHER, owned)
    add_certificate(engine, NAME, "a1")
    add_certificate(engine, OTHER, "b1")
    assert write(engine, lambda c: delete_monitors(c, [], NOW)) == Ended()
    assert write(engine, lambda c: delete_monitors(c, [v4], NOW)) == Ended(), "IPv6 still uses them"
    assert is_valid(engine, key)
    ended = write(engine, lambda c: delete_monitors(c, [v4, v6], NOW, "a reason"))
    assert (len(ended.keys), ended.certificates) == (1, ("a1",))
    assert not is_valid(engine, key) and is_valid(engine, other_key)
    later = NOW + timedelta(hours=1)
    again = write(engine, lambda c: delete_monitors(c, [v4, v6], later))
    assert again.certificates == ()
    with reading(engine) as connection:
        assert valid_key(connection, ended.keys[0], NOW) is None
        [listed] = [one for one in list_keys(connection) if one.id == ended.keys[0]]
        assert (listed.reason, listed.ends_on) == ("a reason", NOW.replace(tzinfo=None)), "the first end counts"
        m = monitors.c
        gone = sa.select(m.status, m.is_current, m.deleted_on).where(m.tls_name == NAME)
        assert connection.execute(gone).all() == [("deleted", None, NOW.replace(tzinfo=None))] * 2
    write(engine, lambda c: add_monitor(c, monitor_name("next"), ip="10.0.0.1"))
    assert write(engine, lambda c: delete_monitors(c, others, NOW)).certificates == ("b1",), "both at once"


def test_valid_key_is_found_with_its_monitors(engine: Engine) -> None:
    owned = account(engine, "4xhq2c9")
    ids, key = host(engine, NAME, owned)
    found = authenticate(engine, PEPPERS, key, NOW)
    assert found is not None
    with reading(engine) as connection:
        assert valid_key(connection, found.id, NOW) == found and list(found.monitor_ids) == ids
        assert valid_key(connection, found.id + 1, NOW) is None


def test_monitor_moves_with_its_key_between_accounts_of_one_person(engine: Engine) -> None:
    here, there = account(engine, "4xhq2c9"), account(engine, "another", monitor_limit=2)
    _, key = host(engine, NAME, here)
    host(engine, OTHER, here)
    assert move_monitor(engine, NAME, there, owner(here, there)) == Moved("nlams1-4xhq2c9")
    assert move_monitor(engine, NAME, there, owner(here, there)) == Moved("nlams1-4xhq2c9"), "repeated"
    assert {(row.tls_name, row.account_id) for row in monitor_rows(engine)} == {(NAME, there), (OTHER, here)}
    found = authenticate(engine, PEPPERS, key, NOW)
    assert found is not None and found.account_id == there
    full = move_monitor(engine, OTHER, there, OPERATOR)
    assert isinstance(full, Problem) and "may have 2" in full.sentence, "the limit holds for operators, too"


def test_monitor_moves_neither_from_nor_to_others(engine: Engine) -> None:
    here, there = account(engine, "4xhq2c9"), account(engine, "another")
    host(engine, NAME, here)
    for by, to in ((owner(here), there), (owner(there), there), (owner(), here), (owner(here), 4_000_000_000)):
        assert isinstance(move_monitor(engine, NAME, to, by), Problem)
    for name in (OTHER, NAME.upper(), NAME + " ", ""):
        assert isinstance(move_monitor(engine, name, here, OPERATOR), Problem)
    write(engine, lambda c: delete_monitors(c, [row.id for row in c.execute(sa.select(monitors.c.id))], NOW))
    assert isinstance(move_monitor(engine, NAME, there, OPERATOR), Problem), "it is deleted"
    assert {row.account_id for row in monitor_rows(engine)} == {here}
