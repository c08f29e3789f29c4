"""Test a real broker that requires certificates of the CA, reads its revocation list, and compares their names."""

import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from auth.ca.authority import IssuedCertificate
from auth.ca.contents import CLIENT, SERVER, Draft, issued, leaf_certificate
from auth.ca.files import FileAuthority, signing_root
from auth.tokens import Role
from testbed.fixtures.broker import Broker
from testbed.fixtures.mqtt import MqttClient, Refused
from testbed.fixtures.strict_broker import DAYS, REQUEST, StrictBroker
from testbed.ports import loopback_addresses
from testbed.waiting import block_until

MONITOR = "cert1-x.test.mon.example"
OTHER = "cert2-x.test.mon.example"
WORKER = "worker.pool.example"
REFUSED = "Not authorized"


@pytest.fixture
def strict() -> Iterator[StrictBroker]:
    with StrictBroker() as running:
        yield running


@pytest.fixture(scope="module")
def common() -> Iterator[StrictBroker]:
    """A broker for the tests that do not change it."""
    with StrictBroker() as running:
        yield running


def log_in(broker: StrictBroker, made: IssuedCertificate, name: str = MONITOR, role: Role = Role.MONITOR) -> None:
    """Log in with a valid token, and this certificate."""
    broker.client(made, name, role).connect().close()


def drafted(
    broker: StrictBroker, names: Sequence[x509.GeneralName], now: datetime, lifetime: timedelta
) -> IssuedCertificate:
    """Sign a certificate with any names and times with the key of the CA."""
    root = signing_root(broker.authority.roots(), datetime.now(UTC))
    draft = Draft(REQUEST.public_key, names, (CLIENT, SERVER), now, lifetime)
    return issued(leaf_certificate(draft, root.signer), [])


# --- which certificates -------------------------------------------------------------------------------


def test_client_needs_a_certificate_of_the_ca(common: StrictBroker, tmp_path: Path) -> None:
    log_in(common, common.issue(MONITOR))
    assert common.refuses(None)
    other = FileAuthority(tmp_path / "other", "test")
    other.create()
    assert common.refuses(other.sign_monitor(REQUEST, MONITOR, DAYS))


def test_expired_certificate_is_refused(common: StrictBroker) -> None:
    names = [x509.DNSName(MONITOR)]
    began = datetime.now(UTC) - timedelta(minutes=4)
    log_in(common, drafted(common, names, began, timedelta(minutes=30)))
    assert common.refuses(drafted(common, names, began, timedelta(minutes=2)))


def test_certificate_for_servers_only_is_refused(common: StrictBroker) -> None:
    authority = common.authority
    assert common.refuses(authority.sign_server(REQUEST, [MONITOR], DAYS))
    log_in(common, authority.sign_server(REQUEST, [MONITOR], DAYS, client=True))


def test_workers_need_no_certificate_on_the_listener_without_tls(common: StrictBroker) -> None:
    for role, name in ((Role.SERVER, "ingest"), (Role.MONITOR, MONITOR)):
        with MqttClient(common.port, name, common.token(role, name)) as client:
            assert client.is_alive()


def test_certificate_alone_does_not_suffice(common: StrictBroker) -> None:
    made = common.issue(MONITOR)
    for token in (None, "wrong"):
        with pytest.raises(Refused):
            MqttClient(common.process.tls_port, MONITOR, token, tls=common.tls(made)).connect()


# --- whose --------------------------------------------------------------------------------------------


def test_monitor_needs_the_certificate_of_its_own_name(common: StrictBroker) -> None:
    for client_id in (OTHER, f"{OTHER}/once"):
        with pytest.raises(Refused, match=REFUSED):
            common.client(common.issue(MONITOR), OTHER, client_id=client_id).connect()
        reason = f"login of {client_id} from 127.0.0.1 refused: the certificate is not that of the token's subject"
        assert reason in common.log_text()
    log_in(common, common.issue(OTHER), OTHER)


def test_certificate_with_further_names_is_refused(common: StrictBroker) -> None:
    now = datetime.now(UTC)
    for names in ([MONITOR, OTHER], [OTHER, MONITOR], [MONITOR, "host.example"]):
        made = drafted(common, [x509.DNSName(name) for name in names], now, DAYS)
        with pytest.raises(Refused, match=REFUSED):
            log_in(common, made)
    with pytest.raises(Refused, match=REFUSED):
        log_in(common, drafted(common, [x509.RFC822Name(MONITOR)], now, DAYS))


def test_long_name_is_compared_whole(common: StrictBroker) -> None:
    long = "x" * 60 + ".test." + "y" * 60 + ".example"
    log_in(common, common.issue(long), long)
    with pytest.raises(Refused, match=REFUSED):
        log_in(common, common.issue(long), long.replace("y.example", "z.example"))


@pytest.mark.parametrize("role", [Role.SERVER, Role.ADMIN, Role.OBSERVER, Role.EXPORTER])
def test_monitors_certificate_serves_for_no_other_role(common: StrictBroker, role: Role) -> None:
    with pytest.raises(Refused, match=REFUSED):
        log_in(common, common.issue(MONITOR), "ann", role)
    with pytest.raises(Refused, match=REFUSED):
        log_in(common, common.issue(MONITOR), MONITOR, role)
    assert "refused: the certificate is a monitor's, but the token is not" in common.log_text()
    for hosts in ([WORKER], [WORKER, "192.0.2.1"]):
        log_in(common, common.authority.sign_server(REQUEST, hosts, DAYS, client=True), "ann", role)


def test_broker_survives_many_refused_certificates(common: StrictBroker) -> None:
    good, bad = common.client(common.issue(MONITOR), MONITOR), common.client(common.issue(OTHER), MONITOR)
    with good:
        for _ in range(50):
            with pytest.raises(Refused):
                bad.connect()
        assert good.is_alive()


class Resuming(ssl.SSLContext):
    """A TLS context that resumes the session of its first connection, so that no later handshake has a certificate."""

    first: ssl.SSLSocket | None = None

    def wrap_socket(self, *given: Any, **options: Any) -> ssl.SSLSocket:
        session = None if self.first is None else self.first.session
        wrapped = super().wrap_socket(*given, session=session, **options)
        self.first = self.first or wrapped
        return wrapped


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name)


def resuming(
    broker: StrictBroker, made: IssuedCertificate, version: ssl.TLSVersion
) -> tuple[Resuming, list[bool | None]]:
    """Return such a context, and a list to which each handshake adds whether it has resumed the session."""
    reused: list[bool | None] = []

    class Recording(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
            except OSError:
                self.close()  # paho does not
                raise
            reused.append(self.session_reused)

    context = broker.tls(made, kind=Resuming)
    assert isinstance(context, Resuming)
    context.maximum_version = version
    context.sslsocket_class = Recording
    return context, reused


@VERSIONS
def test_resumed_connection_has_the_certificate_of_the_first(common: StrictBroker, version: ssl.TLSVersion) -> None:
    context, reused = resuming(common, common.issue(MONITOR), version)

    def client(name: str, role: Role = Role.MONITOR, client_id: str = "") -> MqttClient:
        token = common.token(role, name)
        return MqttClient(common.process.tls_port, name, token, client_id=client_id or name, tls=context)

    with client(MONITOR):
        for name, role in ((OTHER, Role.MONITOR), ("ann", Role.ADMIN)):
            with pytest.raises(Refused, match=REFUSED):
                client(name, role).connect()
        client(MONITOR, client_id=f"{MONITOR}/once").connect().close()
    assert reused == [False, True, True, True]


def test_without_a_requirement_nobody_needs_a_certificate(broker: Broker) -> None:
    context = ssl.create_default_context(cafile=str(broker.process.directory / "ca.pem"))
    for name, role in ((MONITOR, Role.MONITOR), ("ann", Role.ADMIN)):
        MqttClient(broker.process.tls_port, name, broker.token(role, name), tls=context).connect().close()


# --- revocation ---------------------------------------------------------------------------------------


def test_revoked_certificate_is_refused_after_a_reload(strict: StrictBroker) -> None:
    revoked, other = strict.issue(MONITOR), strict.issue(MONITOR)
    log_in(strict, revoked)
    strict.revoke(revoked)
    strict.sighup()
    block_until(lambda: strict.refuses(revoked), "the revoked certificate is refused")
    log_in(strict, other)


@VERSIONS
def test_session_with_a_revoked_certificate_is_not_resumed(strict: StrictBroker, version: ssl.TLSVersion) -> None:
    revoked = strict.issue(MONITOR)
    context, reused = resuming(strict, revoked, version)

    def client(client_id: str) -> MqttClient:
        token = strict.token(Role.MONITOR, MONITOR)
        return MqttClient(strict.process.tls_port, MONITOR, token, client_id=client_id, tls=context)

    with client(MONITOR):
        client(f"{MONITOR}/1").connect().close()
        strict.revoke(revoked)
        strict.sighup()
        block_until(lambda: strict.refuses(revoked), "the revoked certificate is refused")
        with pytest.raises(Refused, match="closed"):
            client(f"{MONITOR}/2").connect()
    assert reused[:2] == [False, True]
    assert True not in reused[2:], "the reload has ended all sessions of TLS"


def test_revoked_certificate_is_refused_after_a_restart(strict: StrictBroker) -> None:
    revoked = strict.issue(MONITOR)
    strict.revoke(revoked)
    strict.restart()
    assert strict.refuses(revoked)
    log_in(strict, strict.issue(MONITOR))


def test_new_root_is_accepted_after_a_reload_of_its_list(strict: StrictBroker) -> None:
    trusted = strict.authority.bundle()
    former = strict.issue(MONITOR)
    strict.authority.renew(notice=timedelta(0))
    new, revoked = strict.issue(MONITOR), strict.issue(MONITOR)
    assert strict.refuses(new, trusted), "without a list of the new root"
    strict.revoke(revoked)
    strict.sighup()
    block_until(lambda: not strict.refuses(new, trusted), "the new root is accepted")
    log_in(strict, former)
    assert strict.refuses(revoked, trusted)


def test_broker_gets_a_certificate_of_the_new_root(strict: StrictBroker) -> None:
    strict.authority.renew(notice=timedelta(0))
    strict.revoke()
    strict.restart()
    made = strict.authority.sign_server(REQUEST, [*loopback_addresses(), WORKER], DAYS, client=True)
    log_in(strict, made, "ann", Role.ADMIN)
