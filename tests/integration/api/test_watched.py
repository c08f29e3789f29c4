"""Test the times that the API watches: of the CA's root, its revocation lists, the key for tokens; and its agents."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from sqlalchemy.engine import Engine

from api.watched import count_agents, list_end, root_end, written
from auth.ca.files import FileAuthority
from ingest.messages import Presence
from ingest.presence import write_presence
from runtime.db.engine import to_db
from schema.limits import MONITOR_GONE
from schema.messages import Status
from testbed.fixtures.world import add_monitor, monitor_name

NOW = datetime.now(UTC).replace(microsecond=0)


def test_ends_of_a_ca_with_several_roots(tmp_path: Path) -> None:
    authority = FileAuthority(tmp_path / "ca", "devel")
    authority.create()
    authority.renew(notice=timedelta())
    bundle, lists = authority.bundle(), authority.revocation_list([])
    assert lists.count("BEGIN X509 CRL") == 2
    roots = x509.load_pem_x509_certificates(bundle.encode())
    assert root_end(bundle) == roots[0].not_valid_after_utc
    end = list_end(lists)
    assert end is not None and timedelta(days=29, hours=23) < end - datetime.now(UTC) < timedelta(days=30)
    first, second = (f"{part}-----END X509 CRL-----\n" for part in lists.split("-----END X509 CRL-----")[:2])
    ends = [x509.load_pem_x509_crl(one.strip().encode()).next_update_utc for one in (first, second)]
    assert end == min(end for end in ends if end)


def test_what_there_is_not_has_no_end(tmp_path: Path) -> None:
    assert (root_end(None), list_end(None), list_end("")) == (None, None, None)
    assert (written(None), written(tmp_path / "none")) == (None, None)


def test_a_key_is_as_old_as_its_file(tmp_path: Path) -> None:
    key = tmp_path / "jwt.key"
    key.write_text("secret")
    os.utime(key, (1_700_000_000, 1_700_000_000))
    assert written(key) == datetime.fromtimestamp(1_700_000_000, UTC)


def test_agents_that_shall_probe_are_counted_by_presence(sqlite_engine: Engine) -> None:
    with sqlite_engine.begin() as connection:
        for short in ("here", "left", "silent", "never"):
            add_monitor(connection, monitor_name(short))
        add_monitor(connection, monitor_name("here"), "v6")
        add_monitor(connection, monitor_name("pending"), status="pending")
        add_monitor(connection, monitor_name("elsewhere", "test"))
    for short, online, age in (
        ("here", True, timedelta()),
        ("pending", True, timedelta()),
        ("left", False, timedelta()),
        ("silent", True, MONITOR_GONE + timedelta(seconds=5)),
    ):
        status = Status(online=online, ts=NOW - age, version="1")
        write_presence(sqlite_engine, [Presence(monitor_name(short), status, NOW - age, retained=False)])
    with sqlite_engine.connect() as connection:
        assert count_agents(connection, "devel", to_db(NOW)) == {"connected": 1, "away": 3}
