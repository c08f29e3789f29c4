"""Test which certificates serve for which token: the plugin's check of their names, with hostile ones."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from testbed.fixtures.plugin_harness import Ask, Harness, yes
from testbed.random_inputs import examples

NAME = "names1-x.test.mon.example"
KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime.now(UTC)

NOT_THE_SUBJECTS = "the certificate is not that of the token's subject"
A_MONITORS = "the certificate is a monitor's, but the token is not"
UNREADABLE = "the names of the certificate cannot be read"

DNS, EMAIL, URI, ADDRESS = 0x82, 0x81, 0x86, 0x87
"""Tags of names in a SAN (RFC 5280, 4.2.1.6)."""

checked = examples(100, suppress=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    with Harness() as running:
        yield running


def der(tag: int, content: bytes) -> bytes:
    """Encode a value, with the shortest length."""
    size = len(content)
    length = size.to_bytes((size.bit_length() + 7) // 8 or 1, "big")
    head = length if size < 128 else bytes([0x80 | len(length)]) + length
    return bytes([tag]) + head + content


def names(*given: tuple[int, bytes]) -> bytes:
    """Encode a SAN."""
    return der(0x30, b"".join(der(tag, content) for tag, content in given))


def certificate(*san: bytes, common: str = "anything") -> bytes:
    """Return a certificate with a SAN of each of these contents; nobody verifies its signature here."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    for number, content in enumerate(san):
        # The builder refuses a second one of the same kind, so give it another number of the same length and patch it.
        oid = ExtensionOID.SUBJECT_ALTERNATIVE_NAME if number == 0 else x509.ObjectIdentifier("2.5.29.18")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, content), critical=False)
    made = builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)
    return made.replace(b"\x06\x03\x55\x1d\x12", b"\x06\x03\x55\x1d\x11")


def answer(ask: Ask, made: bytes, name: str, role: str) -> str:
    return ask("certificate", base64.b64encode(made).decode(), name, role)


def as_monitor(ask: Ask, made: bytes, name: str = NAME) -> str:
    return answer(ask, made, name, "monitor")


def as_others(ask: Ask, made: bytes, name: str = "ingest") -> str:
    answers = {answer(ask, made, name, role) for role in ("server", "admin", "observer", "exporter")}
    assert len(answers) == 1
    return answers.pop()


def test_monitors_certificate_has_its_name_and_no_other(ask: Ask) -> None:
    own = names((DNS, NAME.encode()))
    assert as_monitor(ask, certificate(own)) == "good"
    assert answer(ask, certificate(own), NAME, "a role of the future") == "good"
    for content in (
        names(),
        names((DNS, b"names2-x.test.mon.example")),
        names((DNS, NAME.encode()), (DNS, NAME.encode())),
        names((DNS, NAME.encode()), (DNS, b"names2-x.test.mon.example")),
        names((DNS, b"other.example"), (DNS, NAME.encode())),
        names((DNS, NAME.encode()), (ADDRESS, bytes(4))),
        names((DNS, NAME.upper().encode())),
        names((DNS, NAME.encode() + b".")),
        names((DNS, NAME.encode() + b"\0")),
        names((DNS, NAME.encode() + b"\0.evil.example")),
        names((DNS, b"\0" + NAME.encode())),
        names((DNS, NAME[:-1].encode())),
        names((DNS, b"*" + NAME[NAME.index(".") :].encode())),
        names((DNS, b"")),
        names((EMAIL, NAME.encode())),
        names((URI, NAME.encode())),
    ):
        assert as_monitor(ask, certificate(content)) == NOT_THE_SUBJECTS


def test_common_name_is_not_read(ask: Ask) -> None:
    assert as_monitor(ask, certificate(common=NAME)) == NOT_THE_SUBJECTS
    assert as_monitor(ask, certificate(names((DNS, b"other.example")), common=NAME)) == NOT_THE_SUBJECTS
    assert as_others(ask, certificate(common=NAME)) == "good"


def test_certificate_with_unreadable_names_serves_for_nothing(ask: Ask) -> None:
    own = names((DNS, NAME.encode()))
    for contents in (
        [b""],
        [own[:-1]],
        [own + b"\0"],
        [der(0x31, own[2:])],
        [names((0x30, b"\0"))],
        [b"\x30\x80" + own[2:]],
        [own, own],
        [own, names((DNS, b"other.example"))],
    ):
        made = certificate(*contents)
        assert as_monitor(ask, made) in (UNREADABLE, NOT_THE_SUBJECTS)
        assert as_others(ask, made) in (UNREADABLE, A_MONITORS)


def test_two_extensions_with_names_are_unreadable(ask: Ask) -> None:
    made = certificate(names((DNS, NAME.encode())), names((DNS, NAME.encode())))
    assert made.count(b"\x06\x03\x55\x1d\x11") == 2
    assert as_monitor(ask, made) == as_others(ask, made) == UNREADABLE


def test_monitors_certificate_serves_for_no_other_role(ask: Ask) -> None:
    for content in (
        names((DNS, NAME.encode())),
        names((DNS, b"worker.example"), (DNS, NAME.encode())),
        names((DNS, NAME.upper().encode())),
        names((DNS, NAME.encode() + b"\0.example")),
        names((DNS, b"worker\0.example")),
        names((DNS, b"")),
        names((DNS, b"x" * 254)),
        names((DNS, b"a.prod.b")),
        names((DNS, b"a.DEVEL.b")),
    ):
        assert as_others(ask, certificate(content)) == A_MONITORS
    for content in (
        names(),
        names((DNS, b"worker.example")),
        names((DNS, b"test.example"), (DNS, b"a.tests.example"), (DNS, b"a.test"), (ADDRESS, bytes(16))),
        names((ADDRESS, bytes(4)), (EMAIL, b"ann@a.test.example")),
    ):
        assert as_others(ask, certificate(content)) == "good"
    assert as_others(ask, certificate()) == "good"


def test_many_names_are_all_read(ask: Ask) -> None:
    many = [(DNS, f"worker{number}.example".encode()) for number in range(2000)]
    assert as_others(ask, certificate(names(*many))) == "good"
    assert as_others(ask, certificate(names(*many, (DNS, NAME.encode())))) == A_MONITORS
    assert as_monitor(ask, certificate(names(*many, (DNS, NAME.encode())))) == NOT_THE_SUBJECTS


TAGS = st.sampled_from([DNS, DNS, DNS, EMAIL, URI, ADDRESS, 0xA0, 0xA4, 0x88, 0x02, 0x30])
CONTENTS = st.sampled_from([NAME.encode(), b"other.example", b"", b"\0", b"a.test.b", b"\xff" * 5]) | st.binary(
    max_size=20
)


@checked
@given(
    content=st.lists(st.tuples(TAGS, CONTENTS), max_size=3).map(lambda given: names(*given)) | st.binary(max_size=60)
)
def test_certificate_never_serves_for_a_monitor_and_another_role(ask: Ask, content: bytes) -> None:
    made = certificate(content)
    monitor, other = as_monitor(ask, made), as_others(ask, made, NAME)
    assert monitor in ("good", NOT_THE_SUBJECTS, UNREADABLE)
    assert other in ("good", A_MONITORS, UNREADABLE)
    assert (monitor == "good") == (content == names((DNS, NAME.encode())))
    assert monitor != "good" or other == A_MONITORS


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        (NAME, True),
        ("a.prod.b", True),
        ("a.Test.b.c", True),
        ("a.devel.", True),
        ("a.devel", False),
        ("devel.a.b", False),
        ("a.b.prod.c", False),
        ("a.production.b", False),
        ("a.pro.b", False),
        ("a..b", False),
        ("ingest", False),
        ("", False),
    ],
)
def test_form_of_a_monitors_name(ask: Ask, name: str, is_one: bool) -> None:
    assert yes(ask("monitors", name)) is is_one
