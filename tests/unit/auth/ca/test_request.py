"""Test signing requests: only a valid one for a key on P-256 is accepted, whatever else is sent."""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import assume, given
from hypothesis import strategies as st

from auth.ca.request import MAX_REQUEST_BYTES, InvalidRequest, new_key, parse_request
from testbed.fixtures.certificates import greedy_extensions, key_pem, request_pem
from testbed.random_inputs import examples

KEY = ec.generate_private_key(ec.SECP256R1())
VALID = request_pem(KEY)


def refusal(pem: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(pem)
    return str(caught.value)


def point_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def with_other_signature(pem: str) -> str:
    """Return the request with a changed last byte, which is part of the signature."""
    der = bytearray(x509.load_pem_x509_csr(pem.encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM).decode()


def with_key_of_another(pem: str) -> str:
    """Return the request for the key of somebody else, with the signature of the own one."""
    other = ec.generate_private_key(ec.SECP256R1())
    der = x509.load_pem_x509_csr(pem.encode()).public_bytes(Encoding.DER)
    changed = der.replace(point_of(KEY), point_of(other))
    assert changed != der
    return x509.load_der_x509_csr(changed).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize("hash_", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda h: h.name)
def test_request_for_a_key_on_p_256_is_accepted(hash_: hashes.HashAlgorithm) -> None:
    found = parse_request(request_pem(KEY, hash_=hash_))
    assert found.public_key == KEY.public_key()
    assert len(found.digest) == 64


def test_request_may_have_other_line_ends_and_the_older_label() -> None:
    found = parse_request(VALID)
    assert parse_request("\r\n" + VALID.replace("\n", "\r\n")) == found
    assert parse_request(VALID.replace(" CERTIFICATE", " NEW CERTIFICATE")).digest == found.digest


def test_digest_differs_between_requests() -> None:
    assert parse_request(VALID).digest != parse_request(request_pem(KEY, subject="other")).digest


def test_names_and_extensions_of_a_request_do_not_prevent_its_acceptance() -> None:
    assert parse_request(request_pem(KEY, *greedy_extensions("bank.example"))).public_key == KEY.public_key()


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        pytest.param(request_pem(ec.generate_private_key(ec.SECP384R1())), "on the curve P-256", id="P-384"),
        pytest.param(request_pem(ec.generate_private_key(ec.SECP256K1())), "on the curve P-256", id="secp256k1"),
        pytest.param(request_pem(rsa.generate_private_key(65537, 2048)), "on the curve P-256", id="RSA"),
        pytest.param(request_pem(ed25519.Ed25519PrivateKey.generate()), "on the curve P-256", id="Ed25519"),
        pytest.param(request_pem(KEY, hash_=hashes.SHA224()), "signed with SHA-256", id="weak hash"),
        pytest.param(with_other_signature(VALID), "signature does not match", id="broken signature"),
        pytest.param(with_key_of_another(VALID), "signature does not match", id="key of another"),
        pytest.param("", "one PEM block", id="empty"),
        pytest.param(VALID + VALID, "one PEM block", id="two"),
        pytest.param(key_pem(KEY), "one PEM block", id="a private key"),
        pytest.param(key_pem(KEY) + VALID, "one PEM block", id="with a private key"),
        pytest.param(VALID[:200] + VALID[260:], "PKCS #10", id="cut"),
        pytest.param(VALID.replace("M", "\u041c"), "one PEM block", id="not ASCII"),
        pytest.param(VALID.replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\n", 1), "one PEM block", id="header"),
        pytest.param("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", "PKCS", id="DER"),
    ],
)
def test_other_requests_are_refused_with_the_reason(pem: str, why: str) -> None:
    assert why in refusal(pem)


def test_huge_request_is_refused_before_it_is_parsed() -> None:
    hosts = [f"{n}.example" for n in range(1000)]
    pem = request_pem(KEY, *greedy_extensions(*hosts))
    assert len(pem) > MAX_REQUEST_BYTES
    assert f"at most {MAX_REQUEST_BYTES} bytes" in refusal(pem)
    assert parse_request(request_pem(KEY, *greedy_extensions("x" * 60))).public_key == KEY.public_key()


@examples(200)
@given(st.text(max_size=400) | st.binary(max_size=400).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_refused(text: str) -> None:
    refusal(text)


@examples(300)
@given(st.integers(0, len(x509.load_pem_x509_csr(VALID.encode()).public_bytes(Encoding.DER)) - 1), st.integers(1, 255))
def test_request_with_any_changed_byte_is_refused_without_quoting_it(place: int, change: int) -> None:
    request = x509.load_pem_x509_csr(VALID.encode())
    der = bytearray(request.public_bytes(Encoding.DER))
    # The number of unused bits of the signature, just before it, changes nothing if so many of its bits are 0.
    assume(place != len(der) - len(request.signature) - 1)
    der[place] ^= change
    text = base64.encodebytes(bytes(der)).decode()
    said = refusal(f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n")
    assert said.startswith("signing request: ")
    assert len(said) < 120


def test_new_key_has_a_valid_request_and_is_not_shown() -> None:
    made = new_key()
    assert parse_request(made.request.pem) == made.request
    assert "PRIVATE" not in repr(made)
    assert made.key not in str(made)
