"""Test certificates in the ledger, on every database: issuing is idempotent, and revocations are complete."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.engine import Engine

from auth.ca.authority import AuthorityUnavailable, IssuedCertificate, Revocation
from auth.ca.files import FileAuthority
from auth.ca.request import SigningRequest, parse_request
from auth.certificates import (
    NoSuchMonitor,
    certificates_of,
    find_certificate,
    issue_to_monitor,
    revoke_monitor,
    revoke_serial,
    revoked_certificates,
    store_server_certificate,
    write_revocation_list,
)
from runtime.db.engine import reading, transaction
from schema.tables import certificates, monitors
from testbed.fixtures.certificates import leaf_of, names_of, request_pem
from testbed.fixtures.world import add_monitor, monitor_name

NAME = monitor_name("cert1", "test")
OTHER = monitor_name("cert2", "test")
DAYS = timedelta(days=90)
MINUTE = timedelta(minutes=1)
NOW = datetime.now(UTC).replace(microsecond=123456)


def new_request() -> SigningRequest:
    return parse_request(request_pem(ec.generate_private_key(ec.SECP256R1())))


REQUEST = new_request()


class CountingAuthority(FileAuthority):
    """A CA that counts its signatures, and calls ``before_answer`` before it returns one."""

    signed = 0
    before_answer: Callable[[], object] = staticmethod(lambda: None)

    def sign_monitor(self, request: SigningRequest, name: str, lifetime: timedelta) -> IssuedCertificate:
        made = super().sign_monitor(request, name, lifetime)
        self.signed += 1
        self.before_answer()
        return made


@pytest.fixture
def ca(tmp_path: Path) -> CountingAuthority:
    authority = CountingAuthority(tmp_path / "ca", "test")
    authority.create()
    return authority


@pytest.fixture
def ledger(engine: Engine) -> Engine:
    """A ledger with two monitors, one of which has both protocols."""
    with engine.begin() as connection:
        add_monitor(connection, NAME)
        add_monitor(connection, NAME, "v6", status="paused")
        add_monitor(connection, OTHER)
    return engine


def issue(
    ledger: Engine,
    ca: CountingAuthority,
    request: SigningRequest = REQUEST,
    name: str = NAME,
    now: datetime = NOW,
    lifetime: timedelta = DAYS,
) -> IssuedCertificate:
    return issue_to_monitor(ledger, ca, request, name, now, lifetime)


def revoke(ledger: Engine, name: str = NAME, now: datetime = NOW) -> list[str]:
    return transaction(ledger, lambda c: revoke_monitor(c, name, now))


def revoked(ledger: Engine, now: datetime = NOW) -> list[Revocation]:
    with reading(ledger) as connection:
        return revoked_certificates(connection, now)


def delete(ledger: Engine, name: str) -> None:
    with ledger.begin() as connection:
        connection.execute(sa.update(monitors).where(monitors.c.tls_name == name).values(status="deleted"))


# ---- issuing -------------------------------------------------------------------------------------------------------


def test_certificate_is_in_the_ledger(ledger: Engine, ca: CountingAuthority) -> None:
    made = issue(ledger, ca)
    assert names_of(leaf_of(made.chain)) == [NAME]
    with reading(ledger) as connection:
        row = connection.execute(sa.select(certificates)).one()
        [found] = certificates_of(connection, NAME)
        assert find_certificate(connection, made.serial) == found
    assert (row.serial, row.kind, row.name, row.chain) == (made.serial, "monitor", NAME, made.chain)
    assert (found.not_before, found.not_after) == (made.not_before, made.not_after)
    assert (found.issued_on, found.revoked_on, found.state(NOW)) == (NOW, None, "valid")
    assert found.state(NOW + 2 * DAYS) == "ended"


def test_same_request_gets_the_same_certificate_for_ten_minutes(ledger: Engine, ca: CountingAuthority) -> None:
    first = issue(ledger, ca)
    assert issue(ledger, ca, now=NOW + 9.9 * MINUTE) == first
    assert ca.signed == 1
    assert issue(ledger, ca, now=NOW + 10 * MINUTE).serial != first.serial


def test_other_requests_and_monitors_get_their_own(ledger: Engine, ca: CountingAuthority) -> None:
    made = [issue(ledger, ca), issue(ledger, ca, request=new_request()), issue(ledger, ca, name=OTHER)]
    assert len({one.serial for one in made}) == 3
    assert names_of(leaf_of(made[2].chain)) == [OTHER]


def test_short_certificate_is_not_given_again_when_it_is_soon_due(ledger: Engine, ca: CountingAuthority) -> None:
    now = datetime.now(UTC)
    first = issue(ledger, ca, now=now, lifetime=2 * MINUTE)
    assert issue(ledger, ca, now=now + timedelta(seconds=25), lifetime=2 * MINUTE) == first
    assert issue(ledger, ca, now=now + timedelta(seconds=40), lifetime=2 * MINUTE).serial != first.serial


def test_processes_that_ask_at_once_get_one_certificate(ledger: Engine, ca: CountingAuthority) -> None:
    together = threading.Barrier(4)
    ca.before_answer = lambda: together.wait(60)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: issue(ledger, ca), range(4)))
    assert ca.signed == 4, "all of them signed at the same time"
    assert len({one.chain for one in made}) == 1
    with reading(ledger) as connection:
        assert [one.serial for one in certificates_of(connection, NAME)] == [made[0].serial]


def test_certificate_whose_answer_was_lost_is_given_again(
    ledger: Engine, ca: CountingAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: object) -> IssuedCertificate:
        transaction(*arguments)  # type: ignore[arg-type]  # as it was called
        raise ConnectionError("after the commit")

    with monkeypatch.context() as patched:
        patched.setattr("auth.certificates.transaction", lost)
        with pytest.raises(ConnectionError):
            issue(ledger, ca)
    with reading(ledger) as connection:
        [stored] = certificates_of(connection, NAME)
    assert issue(ledger, ca, now=NOW + MINUTE).serial == stored.serial
    assert ca.signed == 1


def test_failed_signature_leaves_nothing(ledger: Engine, ca: CountingAuthority) -> None:
    def fail() -> None:
        raise AuthorityUnavailable("not now")

    ca.before_answer = fail
    with pytest.raises(AuthorityUnavailable):
        issue(ledger, ca)
    with reading(ledger) as connection:
        assert certificates_of(connection, NAME) == []


@pytest.mark.parametrize("name", [monitor_name("nobody", "test"), "", f"{NAME} ", f"{NAME}.x"])
def test_unknown_monitor_gets_none(ledger: Engine, ca: CountingAuthority, name: str) -> None:
    with pytest.raises(NoSuchMonitor):
        issue(ledger, ca, name=name)
    assert ca.signed == 0


def test_deleted_monitor_gets_none_not_even_the_former_one(ledger: Engine, ca: CountingAuthority) -> None:
    issue(ledger, ca, name=OTHER)
    delete(ledger, OTHER)
    with pytest.raises(NoSuchMonitor):
        issue(ledger, ca, name=OTHER)


def test_monitor_deleted_during_the_signature_gets_none(ledger: Engine, ca: CountingAuthority) -> None:
    ca.before_answer = lambda: delete(ledger, OTHER)
    with pytest.raises(NoSuchMonitor):
        issue(ledger, ca, name=OTHER)
    with reading(ledger) as connection:
        assert certificates_of(connection, OTHER) == []


# ---- revoking ------------------------------------------------------------------------------------------------------


def test_all_valid_certificates_of_a_monitor_are_revoked(ledger: Engine, ca: CountingAuthority) -> None:
    ended = issue(ledger, ca, request=new_request(), lifetime=2 * MINUTE)
    made = [issue(ledger, ca, request=new_request()) for _ in range(2)]
    issue(ledger, ca, name=OTHER)
    later = NOW + timedelta(hours=1)
    assert revoke(ledger, now=later) == sorted(one.serial for one in made)
    assert [(one.serial, one.revoked_on) for one in revoked(ledger, later)] == [
        (serial, later) for serial in sorted(one.serial for one in made)
    ]
    assert ended.serial not in {one.serial for one in revoked(ledger, later)}


def test_second_revocation_changes_nothing(ledger: Engine, ca: CountingAuthority) -> None:
    issue(ledger, ca)
    revoke(ledger)
    assert revoke(ledger, now=NOW + MINUTE) == []
    assert [one.revoked_on for one in revoked(ledger, NOW + MINUTE)] == [NOW]


def test_one_certificate_is_revoked_by_its_serial(ledger: Engine, ca: CountingAuthority) -> None:
    first, second = (issue(ledger, ca, request=new_request()) for _ in range(2))
    assert transaction(ledger, lambda c: revoke_serial(c, first.serial, NOW)) == [first.serial]
    assert transaction(ledger, lambda c: revoke_serial(c, "abc", NOW)) == []
    assert [one.serial for one in revoked(ledger)] == [first.serial]
    with reading(ledger) as connection:
        states = {one.serial: one.state(NOW) for one in certificates_of(connection, NAME)}
    assert states == {first.serial: "revoked", second.serial: "valid"}


def test_revoked_certificate_is_not_given_again(ledger: Engine, ca: CountingAuthority) -> None:
    first = issue(ledger, ca)
    revoke(ledger)
    assert issue(ledger, ca, now=NOW + MINUTE).serial != first.serial


def test_ended_certificates_leave_the_list(ledger: Engine, ca: CountingAuthority) -> None:
    made = issue(ledger, ca)
    revoke(ledger)
    assert len(revoked(ledger, made.not_after - MINUTE)) == 1
    assert revoked(ledger, made.not_after + MINUTE) == []


def test_certificate_of_a_server_with_a_monitors_name_is_not_the_monitors(
    ledger: Engine, ca: CountingAuthority
) -> None:
    made = ca.sign_server(REQUEST, [NAME], DAYS)
    transaction(ledger, lambda c: store_server_certificate(c, made, NAME, REQUEST, NOW))
    assert issue(ledger, ca).serial != made.serial
    assert made.serial not in revoke(ledger)


# ---- the list ------------------------------------------------------------------------------------------------------


def serials(path: Path) -> set[str]:
    return {format(one.serial_number, "x") for one in x509.load_pem_x509_crl(path.read_bytes())}


def test_list_is_written_for_the_broker(ledger: Engine, ca: CountingAuthority, tmp_path: Path) -> None:
    path = tmp_path / "crl.pem"
    assert write_revocation_list(ledger, ca, path, NOW) == 0
    assert serials(path) == set()
    made = issue(ledger, ca)
    revoke(ledger)
    assert write_revocation_list(ledger, ca, path, NOW) == 1
    assert serials(path) == {made.serial}
    assert path.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_list_that_cannot_be_made_leaves_the_previous_one(
    ledger: Engine, ca: CountingAuthority, tmp_path: Path
) -> None:
    path = tmp_path / "crl.pem"
    write_revocation_list(ledger, ca, path, NOW)
    before = path.read_bytes()
    ca.directory.chmod(0o755)
    with pytest.raises(AuthorityUnavailable):
        write_revocation_list(ledger, ca, path, NOW)
    assert path.read_bytes() == before


def test_older_list_never_replaces_a_newer_one(sqlite_engine: Engine, ca: CountingAuthority, tmp_path: Path) -> None:
    with sqlite_engine.begin() as connection:
        add_monitor(connection, NAME)
    made = issue(sqlite_engine, ca)
    path, reading_now, go_on = tmp_path / "crl.pem", threading.Event(), threading.Event()

    class SlowAuthority(FileAuthority):
        def revocation_list(self, revoked: Sequence[Revocation]) -> str:
            reading_now.set()
            assert go_on.wait(60)
            return super().revocation_list(revoked)

    slow = SlowAuthority(ca.directory, "test")
    with ThreadPoolExecutor(2) as pool:
        older = pool.submit(write_revocation_list, sqlite_engine, slow, path, NOW)
        assert reading_now.wait(60), "it has read the ledger"
        revoke(sqlite_engine)
        newer = pool.submit(write_revocation_list, sqlite_engine, ca, path, NOW)
        # The newer one waits for the older one, or else is finished first and then replaced.
        threading.Timer(0.2, go_on.set).start()
        assert (older.result(60), newer.result(60)) == (0, 1)
    assert serials(path) == {made.serial}
