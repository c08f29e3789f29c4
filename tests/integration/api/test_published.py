"""Test the public files of the CA: made when something changed, written for the broker, and kept through failures."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography import x509
from sqlalchemy.engine import Engine

from api.published import Published
from auth.ca.authority import AuthorityUnavailable
from auth.ca.files import FileAuthority
from auth.ca.request import new_key
from auth.certificates import issue_to_monitor, revoke_monitor
from runtime.db.engine import transaction
from schema.tables import certificates
from testbed.fixtures.world import add_monitor, monitor_name

NAME = monitor_name("nlams1-a")
NOW = datetime.now(UTC)
SECOND = timedelta(seconds=1)


class Ticks:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


class CountingAuthority(FileAuthority):
    """A CA that counts its lists, and fails on demand."""

    lists = 0
    fails = False

    def revocation_list(self, revoked):  # type: ignore[no-untyped-def]
        if self.fails:
            raise AuthorityUnavailable("CA: on demand")
        self.lists += 1
        return super().revocation_list(revoked)


def numbers(crl: str) -> set[int]:
    return {one.serial_number for one in x509.load_pem_x509_crl(crl.encode())}


@pytest.mark.parametrize("with_file", [True, False])
def test_the_list_is_made_after_a_revocation_and_every_hour(
    sqlite_engine: Engine, tmp_path: Path, with_file: bool, caplog: pytest.LogCaptureFixture
) -> None:
    authority, ticks = CountingAuthority(tmp_path / "ca", "devel"), Ticks()
    path = tmp_path / "crl.pem" if with_file else None
    published = Published(sqlite_engine, authority, path, ticks)
    published.refresh(NOW)
    assert published.looked and (published.bundle, published.revocations) == (None, None), "there is no CA yet"
    authority.create()
    transaction(sqlite_engine, lambda c: add_monitor(c, NAME))
    made = issue_to_monitor(sqlite_engine, authority, new_key().request, NAME, NOW, timedelta(days=90))
    ticks.at += 5
    published.refresh(NOW)
    assert published.bundle == authority.bundle() and numbers(published.revocations or "") == set()
    ticks.at += 5
    published.refresh(NOW)
    assert authority.lists == 1, "nothing changed"
    transaction(sqlite_engine, lambda c: revoke_monitor(c, NAME, NOW))
    ticks.at += 5
    with caplog.at_level("INFO"):
        published.refresh(NOW)
    assert authority.lists == 2 and numbers(published.revocations or "") == {int(made.serial, 16)}
    assert ("reload the broker" in caplog.text) == with_file
    assert path is None or path.read_text() == published.revocations
    ticks.at += 3600
    published.refresh(NOW)
    assert authority.lists == 3, "every list has an end"


def test_a_failure_keeps_the_last_list_and_is_tried_again_after_a_minute(
    sqlite_engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority, ticks = CountingAuthority(tmp_path / "ca", "devel"), Ticks()
    authority.create()
    published = Published(sqlite_engine, authority, None, ticks)
    published.refresh(NOW)
    before = published.revocations
    authority.fails = True
    row = {"kind": "monitor", "name": NAME, "request_hash": "x", "chain": "x", "issued_on": NOW, "not_before": NOW}
    row |= {"serial": "ab", "not_after": NOW + timedelta(days=1), "revoked_on": NOW}
    naive = {name: value.replace(tzinfo=None) if isinstance(value, datetime) else value for name, value in row.items()}
    transaction(sqlite_engine, lambda c: c.execute(sa.insert(certificates).values(naive)))
    ticks.at += 5
    published.refresh(NOW)
    assert published.revocations == before and "on demand" in caplog.text
    authority.fails = False
    ticks.at += 5
    published.refresh(NOW)
    assert published.revocations == before
    ticks.at += 60
    published.refresh(NOW)
    assert numbers(published.revocations or "") == {0xAB}


def test_a_missing_directory_of_the_file_is_a_warning(
    sqlite_engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = FileAuthority(tmp_path / "ca", "devel")
    authority.create()
    published = Published(sqlite_engine, authority, tmp_path / "none" / "crl.pem", Ticks())
    published.refresh(NOW)
    assert "revocation list" in caplog.text and published.bundle is not None
