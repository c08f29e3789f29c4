"""Test keys and certificates made for hosts, on every database: one pair for ten minutes, sealed with the API key."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy.engine import Connection, Engine

from auth.api_key_store import add_key
from auth.api_keys import Peppers, derive_pepper, generate
from auth.ca.files import FileAuthority
from auth.certificates import NoSuchMonitor, revoke_monitor
from auth.host_certificates import Holder, KeyAndCertificate, forget_private_keys, key_and_certificate
from runtime.db.engine import reading, transaction
from schema.tables import certificates, host_certificates, monitors
from testbed.fixtures.certificates import leaf_of
from testbed.fixtures.registering import NOW, PEPPERS
from testbed.fixtures.world import add_account, add_monitor, monitor_name

NAME, OTHER = monitor_name("nlams1-a", "prod"), monitor_name("nlams2-a", "prod")
MINUTE, LIFE = timedelta(minutes=1), timedelta(days=90)


def test_one_pair_for_ten_minutes(engine: Engine, tmp_path: Path) -> None:
    authority = FileAuthority(tmp_path / "ca", "prod")
    authority.create()

    def add(connection: Connection) -> Holder:
        ids = [add_monitor(connection, name) for name in (NAME, OTHER)]
        return Holder(*add_key(connection, PEPPERS, NOW, account_id=add_account(connection), monitor_ids=ids))

    holder = transaction(engine, add)

    def ask(after: timedelta = timedelta(0), name: str = NAME, by: Holder = holder) -> KeyAndCertificate:
        return key_and_certificate(engine, authority, by, name, PEPPERS, NOW + after, LIFE)

    # Simultaneous requests, as of several processes, get one pair.
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ask(), range(4)))
    assert len({(one.key, one.chain) for one in found}) == 1
    assert [one.is_new for one in found].count(True) == 1
    first = found[0]
    key = load_pem_private_key(first.key.encode(), None)
    assert key.public_key() == leaf_of(first.chain).public_key()
    assert ask(9 * MINUTE).key == first.key

    with reading(engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(certificates)) == 1
        row = connection.execute(sa.select(host_certificates)).one()
    assert "PRIVATE" not in row.sealed_key and first.key not in repr(first)

    # Another key text, or another pepper, opens nothing; a new pair is made.
    wrong = ask(by=Holder(holder.key_id, generate()))
    assert wrong.is_new and wrong.key != first.key
    rotated = Peppers(derive_pepper("another secret of the settings that is long"))
    assert key_and_certificate(engine, authority, holder, NAME, rotated, NOW, LIFE).is_new

    second = ask(11 * MINUTE)
    assert second.is_new
    assert ask(11 * MINUTE, OTHER).is_new, "another name"
    transaction(engine, lambda c: revoke_monitor(c, NAME, NOW + 11 * MINUTE))
    third = ask(12 * MINUTE)
    assert third.is_new and third.key != second.key, "a revoked certificate is not handed out again"

    assert transaction(engine, lambda c: forget_private_keys(c, NOW + 21 * MINUTE)) == 0
    assert transaction(engine, lambda c: forget_private_keys(c, NOW + 22 * MINUTE)) == 1
    gone = sa.update(monitors).values(status="deleted")
    transaction(engine, lambda c: c.execute(gone))
    with pytest.raises(NoSuchMonitor):
        ask(23 * MINUTE)
