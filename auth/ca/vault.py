"""Use the PKI engine of a Vault as the CA: ``pki/{env}`` with the roles ``monitor`` and ``server``.

The roles must be set so that Vault, too, takes only the public key of a signing request:

    vault write pki/prod/roles/monitor allowed_domains=prod.mon.example.net allow_subdomains=true key_type=ec \\
        key_bits=256 client_flag=true server_flag=true use_csr_common_name=false use_csr_sans=false max_ttl=2160h
    vault write pki/prod/roles/server allow_any_name=true key_type=ec key_bits=256 client_flag=true server_flag=true \\
        use_csr_common_name=false use_csr_sans=false max_ttl=9552h

A different role cannot make us hand out a wrong certificate: every answer is compared with what was asked for. One that
differs is revoked and refused.

Vault makes its revocation list itself. It is compared with the ledger, and what is missing is revoked again, so a
revocation whose request was lost is not forgotten.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auth.ca.authority import (
    CLOCK_MARGIN,
    AuthorityUnavailable,
    IssuedCertificate,
    Revocation,
    backdating,
    check_lifetime,
)
from auth.ca.contents import CLIENT, SERVER, as_pem, issued, serial_text
from auth.ca.hosts import common_name, general_names
from auth.ca.request import SigningRequest
from runtime.secrets import OpenVault, SecretUnavailable, not_ok, open_vault
from schema.names import Environment, check_monitor_name

MAX_LIST_BYTES: Final = 16 * 1024 * 1024
_CERTIFICATE: Final = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class VaultAuthority:
    """The CA of one environment in Vault; see :class:`auth.ca.authority.Authority`."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._mount = f"pki/{env}"

    def sign_monitor(self, request: SigningRequest, name: str, lifetime: timedelta) -> IssuedCertificate:
        """Sign a certificate for a monitor."""
        names = [x509.DNSName(check_monitor_name(name, self._env))]
        return self._sign("monitor", request, names, (CLIENT, SERVER), lifetime)

    def sign_server(
        self, request: SigningRequest, hosts: Sequence[str], lifetime: timedelta, *, client: bool = False
    ) -> IssuedCertificate:
        """Sign a certificate for a server. The role determines whether it may be a client; ``client`` requires it."""
        return self._sign("server", request, general_names(hosts), (SERVER, CLIENT) if client else (SERVER,), lifetime)

    def _sign(
        self,
        role: str,
        request: SigningRequest,
        names: Sequence[x509.GeneralName],
        usages: Collection[x509.ObjectIdentifier],
        lifetime: timedelta,
    ) -> IssuedCertificate:
        asked = {
            "alt_names": ",".join(str(name.value) for name in names if isinstance(name, x509.DNSName)),
            "ip_sans": ",".join(str(name.value) for name in names if isinstance(name, x509.IPAddress)),
            "exclude_cn_from_sans": True,
            "not_before_duration": f"{backdating(check_lifetime(lifetime)).total_seconds():.0f}s",
            "ttl": f"{lifetime.total_seconds():.0f}s",
        }
        begun = datetime.now(UTC)
        answer = self._call(
            f"sign/{role}",
            lambda vault: vault.client.secrets.pki.sign_certificate(
                name=role,
                csr=request.pem,
                common_name=common_name(names),
                extra_params=asked,
                mount_point=self._mount,
            ),
        )
        certificate, others = _chain(self._what(f"sign/{role}"), answer)
        if wrong := _differences(certificate, others, request, names, usages, begun + lifetime):
            with suppress(AuthorityUnavailable):
                self._revoke(serial_text(certificate.serial_number))
            raise AuthorityUnavailable(f"{self._what(f'sign/{role}')}: the certificate differs: {', '.join(wrong)}")
        # Roots are in the bundle, and are not sent along.
        return issued(certificate, [one for one in others if one.subject != one.issuer])

    def bundle(self) -> str:
        """Return the chain of Vault's issuer."""
        what = self._what("ca_chain")
        text = self._call("ca_chain", lambda vault: _text(vault, f"/v1/{self._mount}/ca_chain", self._what))
        return "".join(map(as_pem, _certificates(what, text)))

    def revocation_list(self, revoked: Sequence[Revocation]) -> str:
        """Return Vault's list, after revoking there what it lacks."""
        text, listed = self._list()
        missing = {one.serial for one in revoked} - listed
        if not missing:
            return text
        for serial in sorted(missing):
            self._revoke(serial)
        # Vault makes the list at each revocation unless it is configured to do so at intervals.
        self._call("crl/rotate", lambda vault: vault.client.secrets.pki.rotate_crl(mount_point=self._mount))
        text, listed = self._list()
        if missing := missing - listed:
            raise AuthorityUnavailable(f"{self._what('crl')}: it lacks {len(missing)} revoked certificates")
        return text

    def _list(self) -> tuple[str, set[str]]:
        """Return Vault's revocation list and the serials in it."""
        text = self._call("crl", lambda vault: _text(vault, f"/v1/{self._mount}/crl/pem", self._what))
        try:
            found = x509.load_pem_x509_crl(text.encode())
            serials = {serial_text(one.serial_number) for one in found}
            ends = found.next_update_utc
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
            raise AuthorityUnavailable(f"{self._what('crl')}: is not a revocation list as PEM") from None
        if ends is None or ends <= datetime.now(UTC):
            raise AuthorityUnavailable(f"{self._what('crl')}: the revocation list has ended")
        return text.strip() + "\n", serials

    def _revoke(self, serial: str) -> None:
        with_colons = ":".join(re.findall("..", serial.zfill(len(serial) + len(serial) % 2)))
        self._call(
            "revoke",
            lambda vault: vault.client.secrets.pki.revoke_certificate(
                serial_number=with_colons, mount_point=self._mount
            ),
        )

    def _what(self, path: str) -> str:
        return f"Vault's {self._mount}/{path}"

    def _call(self, path: str, ask: Callable[[OpenVault], Any]) -> Any:
        """Send one request, with the current token."""
        try:
            vault = open_vault()
        except SecretUnavailable as error:
            raise AuthorityUnavailable(f"{self._what(path)}: {error}") from None
        if vault is None:
            raise AuthorityUnavailable("CA: VAULT_ADDR must be set if CA is vault")
        try:
            return ask(vault)
        except vault.errors as error:
            # Not chained, since some errors show the headers, and so the token.
            raise AuthorityUnavailable(f"{self._what(path)} at {vault.address}: {vault.reason(error)}") from None


def _text(vault: OpenVault, path: str, what: Callable[[str], str]) -> str:
    """Return the answer to a request for PEM."""
    response = vault.client.adapter.get(url=path)
    if isinstance(response, Mapping) or response.status_code != 200:
        raise ValueError(not_ok(response))
    if len(response.content) > MAX_LIST_BYTES:
        raise ValueError(f"its answer has more than {MAX_LIST_BYTES} bytes")
    return str(response.content.decode("ascii"))


def _chain(what: str, answer: Any) -> tuple[x509.Certificate, list[x509.Certificate]]:
    """Return the certificate in an answer, and those above it."""
    if not isinstance(answer, Mapping):
        raise AuthorityUnavailable(f"{what}: {not_ok(answer)}")
    data = answer.get("data")
    data = data if isinstance(data, Mapping) else {}
    above = data.get("ca_chain") or [data.get("issuing_ca")]
    texts = [data.get("certificate"), *(above if isinstance(above, list) else [above])]
    if not all(isinstance(text, str) for text in texts):
        raise AuthorityUnavailable(f"{what}: its answer has no certificate and chain")
    certificate, *others = _certificates(what, "\n".join(texts))
    if not others:
        raise AuthorityUnavailable(f"{what}: its answer has no chain")
    return certificate, others


def _certificates(what: str, text: str) -> list[x509.Certificate]:
    try:
        found = [x509.load_pem_x509_certificate(match[0].encode()) for match in _CERTIFICATE.finditer(text)]
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise AuthorityUnavailable(f"{what}: its answer has an invalid certificate") from None
    if not found:
        raise AuthorityUnavailable(f"{what}: its answer has no certificate")
    return found


def _differences(
    certificate: x509.Certificate,
    others: Sequence[x509.Certificate],
    request: SigningRequest,
    names: Sequence[x509.GeneralName],
    usages: Collection[x509.ObjectIdentifier],
    latest_end: datetime,
) -> list[str]:
    """Return in which respects the certificate is not the one that was asked for; none if it is."""
    try:
        wrong = {
            "its key is another one": _spki(certificate.public_key()) != _spki(request.public_key),
            "its names are others": _extension(certificate, x509.SubjectAlternativeName) != set(names),
            "it may sign": _may_sign(certificate),
            "it lacks a usage": not set(usages) <= _extension(certificate, x509.ExtendedKeyUsage),
            "it is valid for too long": certificate.not_valid_after_utc > latest_end + CLOCK_MARGIN,
            "it has ended": certificate.not_valid_after_utc <= datetime.now(UTC),
            "its issuer did not sign it": not _is_issued_by(certificate, others[0]),
        }
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension):
        return ["it is malformed"]
    return [what for what, is_so in wrong.items() if is_so]


def _spki(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _extension(certificate: x509.Certificate, kind: type[Any]) -> set[Any]:
    try:
        return set(certificate.extensions.get_extension_for_class(kind).value)
    except x509.ExtensionNotFound:
        return set()


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
