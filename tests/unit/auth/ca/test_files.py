"""Test the CA in files: contents of certificates, private files, and the change to another root."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from auth.ca.authority import AuthorityUnavailable, Revocation, backdating
from auth.ca.files import NOTICE, AlreadyThere, FileAuthority
from auth.ca.hosts import InvalidHost
from auth.ca.private_files import replace_file
from auth.ca.request import parse_request
from schema.names import InvalidName
from testbed.fixtures.certificates import greedy_extensions, leaf_of, names_of, request_pem

NAME = "nlams1-x.test.mon.example"
KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = parse_request(request_pem(KEY))
DAYS = timedelta(days=90)
AT_ONCE = timedelta(0)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "ca"


@pytest.fixture
def ca(directory: Path) -> FileAuthority:
    authority = FileAuthority(directory, "test")
    authority.create()
    return authority


def usages(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


BOTH = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


# ---- contents --------------------------------------------------------------------------------------------------------


def test_certificate_of_a_monitor_has_its_key_name_and_usages(ca: FileAuthority) -> None:
    made = ca.sign_monitor(REQUEST, NAME, DAYS)
    leaf = leaf_of(made.chain)
    assert leaf.public_key() == KEY.public_key()
    assert names_of(leaf) == [NAME]
    assert leaf.subject.rfc4514_string() == f"CN={NAME}"
    assert usages(leaf) == BOTH
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert made.serial == format(leaf.serial_number, "x")
    assert (made.not_before, made.not_after) == (leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def test_nothing_but_the_key_of_a_request_counts(ca: FileAuthority) -> None:
    extensions = greedy_extensions("other.test.mon.example", "bank.example")
    greedy = parse_request(request_pem(KEY, *extensions, subject="other.test.mon.example"))
    leaf = leaf_of(ca.sign_monitor(greedy, NAME, DAYS).chain)
    assert names_of(leaf) == [NAME]
    assert leaf.subject.rfc4514_string() == f"CN={NAME}"
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)


@pytest.mark.parametrize("lifetime", [timedelta(minutes=2), timedelta(hours=1), DAYS], ids=str)
def test_certificate_begins_a_little_in_the_past_and_is_not_due_for_renewal(
    ca: FileAuthority, lifetime: timedelta
) -> None:
    now = datetime.now(UTC)
    made = ca.sign_monitor(REQUEST, NAME, lifetime)
    assert timedelta(0) <= made.not_after - now - lifetime + timedelta(seconds=1) < timedelta(minutes=1)
    begun = now - made.not_before
    assert timedelta(seconds=10) < begun < timedelta(minutes=6)
    assert begun < (made.not_after - made.not_before) / 3


def test_backdating_is_five_minutes_for_the_usual_lifetime() -> None:
    assert backdating(DAYS) == timedelta(minutes=5)


@pytest.mark.parametrize("lifetime", [timedelta(seconds=119), timedelta(days=399), timedelta(0), -DAYS], ids=str)
def test_other_lifetimes_are_refused(ca: FileAuthority, lifetime: timedelta) -> None:
    with pytest.raises(ValueError, match="must be 2 minutes to 398 days"):
        ca.sign_monitor(REQUEST, NAME, lifetime)


@pytest.mark.parametrize("name", ["nlams1-x.prod.mon.example", "*.test.mon.example", "", "a b", "x.test", "x.test.a,b"])
def test_other_names_than_those_of_the_environment_are_refused(ca: FileAuthority, name: str) -> None:
    with pytest.raises(InvalidName):
        ca.sign_monitor(REQUEST, name, DAYS)


def test_name_that_is_too_long_for_a_subject_is_complete_in_the_san(ca: FileAuthority) -> None:
    name = f"nlams1-x.test.{'a' * 60}.{'b' * 60}.example"
    leaf = leaf_of(ca.sign_monitor(REQUEST, name, DAYS).chain)
    assert names_of(leaf) == [name]
    assert leaf.subject.rfc4514_string() == "CN=nlams1-x"


def test_certificate_of_a_server_has_its_hosts_and_is_for_a_server_only(ca: FileAuthority) -> None:
    hosts = ["mqtt.example", "192.0.2.1", "2001:db8::1", "localhost", "mqtt.example"]
    leaf = leaf_of(ca.sign_server(REQUEST, hosts, DAYS).chain)
    assert names_of(leaf) == ["mqtt.example", "192.0.2.1", "2001:db8::1", "localhost"]
    assert usages(leaf) == {ExtendedKeyUsageOID.SERVER_AUTH}
    assert usages(leaf_of(ca.sign_server(REQUEST, hosts, DAYS, client=True).chain)) == BOTH


@pytest.mark.parametrize(
    "hosts",
    [[], [""], ["*.example"], ["a b"], ["A.example"], ["-a.example"], ["a..b"], ["192.0.2.300"], ["x\n"], ["h"] * 51],
    ids=repr,
)
def test_invalid_hosts_are_refused(ca: FileAuthority, hosts: list[str]) -> None:
    with pytest.raises(InvalidHost):
        ca.sign_server(REQUEST, hosts, DAYS)


def test_serials_differ_even_for_one_request(ca: FileAuthority) -> None:
    assert len({ca.sign_monitor(REQUEST, NAME, DAYS).serial for _ in range(20)}) == 20


def test_root_is_on_p_384_and_may_only_sign(ca: FileAuthority) -> None:
    root = ca.roots()[0].certificate
    key = root.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP384R1)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).critical


# ---- private files ---------------------------------------------------------------------------------------------------


def test_files_are_for_their_owner_only_whatever_the_umask(directory: Path) -> None:
    before = os.umask(0)
    try:
        FileAuthority(directory, "test").create()
    finally:
        os.umask(before)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in directory.iterdir()] == [0o600]


def test_files_are_on_disk_before_they_have_their_names(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, link, replace = os.fsync, os.link, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "link", lambda one, other: (events.append("name"), link(one, other))[1])
    monkeypatch.setattr(Path, "replace", lambda one, other: (events.append("name"), replace(one, other))[1])
    FileAuthority(directory, "test").create()
    replace_file(directory / "server-key.pem", b"x", 0o600)
    assert events == ["fsync", "name", "fsync"] * 2, "the file, its name, then the directory"


def _widen_file(directory: Path) -> None:
    (directory / "root-000001.pem").chmod(0o640)


def _open_file(directory: Path) -> None:
    (directory / "root-000001.pem").chmod(0o604)


def _open_directory(directory: Path) -> None:
    directory.chmod(0o755)


def _link(directory: Path) -> None:
    (directory / "root-000001.pem").rename(directory / "elsewhere")
    (directory / "root-000001.pem").symlink_to(directory / "elsewhere")


def _fifo(directory: Path) -> None:
    (directory / "root-000001.pem").unlink()
    os.mkfifo(directory / "root-000001.pem", 0o600)


def _cut(directory: Path) -> None:
    path = directory / "root-000001.pem"
    path.write_bytes(path.read_bytes()[:200])


def _other_key(directory: Path) -> None:
    FileAuthority(directory / "other", "test").create()
    first, second = ((one / "root-000001.pem").read_text() for one in (directory, directory / "other"))
    key, certificate = first.split("-----BEGIN CERTIFICATE")[0], second.split("-----BEGIN CERTIFICATE")[1]
    (directory / "root-000001.pem").write_text(f"{key}-----BEGIN CERTIFICATE{certificate}")


def _no_time(directory: Path) -> None:
    path = directory / "root-000001.pem"
    path.write_bytes(path.read_bytes().partition(b"\n")[2])


def _huge(directory: Path) -> None:
    path = directory / "root-000001.pem"
    path.write_bytes(path.read_bytes() + b"x" * 65536)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_widen_file, "its mode is 0640; run 'chmod go="),
        (_open_file, "its mode is 0604"),
        (_open_directory, "its mode is 0755"),
        (_link, "cannot be opened as a private file"),
        (_fifo, "not a regular file"),
        (_cut, "is not a file of this CA"),
        (_other_key, "its key is not that of its first certificate"),
        (_no_time, "is not a file of this CA"),
        (_huge, "more than 65536 bytes"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_exposed_or_invalid_files_are_not_used(
    ca: FileAuthority, directory: Path, spoil: Callable[[Path], None], why: str
) -> None:
    spoil(directory)
    for use in (ca.bundle, ca.renew, lambda: ca.revocation_list([]), lambda: ca.sign_monitor(REQUEST, NAME, DAYS)):
        with pytest.raises(AuthorityUnavailable, match=why) as caught:
            use()
        assert "PRIVATE KEY" not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("what", ["directory", "file"])
def test_files_that_another_user_owns_are_not_used(
    ca: FileAuthority, directory: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    if os.getuid() == 0:
        os.chown(directory if what == "directory" else directory / "root-000001.pem", 4243, 0)
    with pytest.raises(AuthorityUnavailable, match=r"belongs to another user \(uid "):
        ca.bundle()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_root_makes_and_reads_files_of_the_user_of_the_state_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 4242, 4243)
    authority = FileAuthority(tmp_path / "ca", "test")
    authority.create()
    for path in (tmp_path / "ca", tmp_path / "ca" / "root-000001.pem"):
        assert (path.stat().st_uid, path.stat().st_gid) == (4242, 4243)
    assert authority.bundle()


def test_there_is_no_ca_before_it_is_created(directory: Path) -> None:
    with pytest.raises(AuthorityUnavailable, match="ca init"):
        FileAuthority(directory, "test").sign_monitor(REQUEST, NAME, DAYS)


def test_second_creation_changes_nothing(ca: FileAuthority, directory: Path) -> None:
    before = (directory / "root-000001.pem").read_bytes()
    with pytest.raises(AlreadyThere):
        ca.create()
    assert (directory / "root-000001.pem").read_bytes() == before
    assert len(list(directory.iterdir())) == 1, "nothing is left over"


def test_key_is_not_shown(ca: FileAuthority) -> None:
    root = ca.roots()[0]
    assert "PRIVATE" not in f"{root!r}{root.signer!r}{ca.bundle()}"


# ---- renewal -----------------------------------------------------------------------------------------------------


def issuer(ca: FileAuthority) -> x509.Name:
    return leaf_of(ca.sign_monitor(REQUEST, NAME, DAYS).chain).issuer


def test_new_root_is_in_the_bundle_and_has_a_list_before_it_signs(ca: FileAuthority) -> None:
    old = ca.roots()[0]
    new = ca.renew()
    assert new.signs_from - datetime.now(UTC) > NOTICE - timedelta(minutes=1)
    assert issuer(ca) == old.certificate.subject
    assert x509.load_pem_x509_certificates(ca.bundle().encode()) == [old.certificate, new.certificate]
    assert lists(ca.revocation_list([])) == [old.certificate.subject, new.certificate.subject]


def lists(text: str) -> list[x509.Name]:
    parts = [part + "-----END X509 CRL-----\n" for part in text.split("-----END X509 CRL-----\n")[:-1]]
    return [x509.load_pem_x509_crl(part.encode()).issuer for part in parts]


def test_former_root_stays_in_the_bundle_when_another_one_signs(ca: FileAuthority) -> None:
    old = ca.roots()[0]
    new = ca.renew(notice=AT_ONCE)
    assert issuer(ca) == new.certificate.subject
    assert x509.load_pem_x509_certificates(ca.bundle().encode()) == [new.certificate, old.certificate]
    assert lists(ca.revocation_list([])) == [new.certificate.subject, old.certificate.subject]


def test_renewal_by_another_process_counts_at_once(ca: FileAuthority, directory: Path) -> None:
    new = FileAuthority(directory, "test").renew(notice=AT_ONCE)
    assert issuer(ca) == new.certificate.subject


def test_ended_root_is_neither_used_nor_in_the_bundle(directory: Path) -> None:
    ca = FileAuthority(directory, "test")
    ca.create(timedelta(seconds=-1))
    for use in (ca.bundle, lambda: ca.revocation_list([]), lambda: ca.sign_monitor(REQUEST, NAME, DAYS)):
        with pytest.raises(AuthorityUnavailable, match="ca renew"):
            use()
    new = ca.renew()
    assert issuer(ca) == new.certificate.subject, "it signs at once, since there is no other"
    assert x509.load_pem_x509_certificates(ca.bundle().encode()) == [new.certificate]
    assert lists(ca.revocation_list([])) == [new.certificate.subject]
    assert new.crosses == ()


def test_certificate_ends_with_its_root(directory: Path) -> None:
    ca = FileAuthority(directory, "test")
    root = ca.create(timedelta(hours=1))
    assert ca.sign_monitor(REQUEST, NAME, DAYS).not_after == root.certificate.not_valid_after_utc


def test_two_renewals_at_once_add_one_root(ca: FileAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    former = ca.roots()
    ca.renew()
    monkeypatch.setattr(ca, "roots", lambda: former)
    with pytest.raises(AlreadyThere):
        ca.renew()


# ---- the revocation list -----------------------------------------------------------------------------------------


def test_list_has_the_revoked_serials_and_is_signed(ca: FileAuthority) -> None:
    moment = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
    serial = ca.sign_monitor(REQUEST, NAME, DAYS).serial
    crl = x509.load_pem_x509_crl(ca.revocation_list([Revocation(serial, moment)]).encode())
    root = ca.roots()[0].certificate.public_key()
    assert isinstance(root, ec.EllipticCurvePublicKey)
    assert crl.is_signature_valid(root)
    assert isinstance(crl.signature_hash_algorithm, hashes.SHA384)
    assert [(format(one.serial_number, "x"), one.revocation_date_utc) for one in crl] == [(serial, moment)]
    assert crl.next_update_utc is not None
    assert crl.next_update_utc - datetime.now(UTC) > timedelta(days=29)
    assert crl.last_update_utc < datetime.now(UTC) - timedelta(minutes=4)


def test_number_of_the_list_grows(ca: FileAuthority) -> None:
    texts = [ca.revocation_list([]) for _ in range(3)]
    found = [
        x509.load_pem_x509_crl(text.encode()).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        for text in texts
    ]
    assert found == sorted(set(found))
