"""Decode the answers of the management API. Every answer may be hostile: one that is not exactly usable is refused."""

import ipaddress
import re
import ssl
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from schema.names import Environment, InvalidName, IpVersion, check_monitor_name

_MAX_URL: Final = 500
_SECRET: Final = re.compile(r"[!-~]{8,4096}")
_TOKEN: Final = re.compile(r"[!-~]{8,8192}")
_URL: Final = re.compile(r"https?://[A-Za-z0-9.\[][!-~]*")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f:]+")
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")

T = TypeVar("T")
Short = Annotated[str, Meta(max_length=253)]
Pem = Annotated[str, Meta(max_length=65536)]


class InvalidAnswer(Exception):
    """An answer of the API is unusable. The message gives the reason, never a secret."""


class ProtocolAnswer(msgspec.Struct, frozen=True):
    """One protocol of the monitor."""

    ip: Annotated[str, Meta(max_length=45)] | None = None
    """The registered address; empty if the protocol is not registered."""
    status: Annotated[str, Meta(max_length=20)] = ""


class BrokerAnswer(msgspec.Struct, frozen=True):
    """The broker to use."""

    host: Short
    port: Annotated[int, Meta(ge=1, le=65535)] = 8883
    ca: Pem | None = None
    """Trusted certificates as PEM; none for plain TCP, which is for loopback only."""


class ConfigAnswer(msgspec.Struct, frozen=True):
    """The answer to ``GET /monitor/api/config``. Unknown members are ignored, since newer servers may send more."""

    tls_name: Short
    ipv4: ProtocolAnswer = ProtocolAnswer()
    ipv6: ProtocolAnswer = ProtocolAnswer()
    broker: BrokerAnswer | None = None

    @property
    def protocols(self) -> dict[IpVersion, ProtocolAnswer]:
        """The registered protocols."""
        both: dict[IpVersion, ProtocolAnswer] = {"v4": self.ipv4, "v6": self.ipv6}
        return {ipv: protocol for ipv, protocol in both.items() if protocol.ip}


class TokenAnswer(msgspec.Struct, frozen=True):
    """The answer to ``POST /monitor/api/token``."""

    token: str
    expires_on: datetime

    def __repr__(self) -> str:
        return f"TokenAnswer(..., expires_on={self.expires_on})"


class CertificateAnswer(msgspec.Struct, frozen=True):
    """The answer to ``POST /monitor/api/certificate``."""

    certificate: Pem
    """Our certificate and its chain, as PEM."""


class RegistrationAnswer(msgspec.Struct, frozen=True):
    """The answer to a poll of the registration."""

    url: Annotated[str, Meta(max_length=_MAX_URL)] = msgspec.field(name="URL", default="")
    status: Annotated[str, Meta(max_length=40)] = msgspec.field(name="Status", default="")
    key: str = msgspec.field(name="APIToken", default="")

    def __repr__(self) -> str:
        return f"RegistrationAnswer(status={self.status!r}, ...)"


def decode_config(body: bytes, env: Environment) -> ConfigAnswer:
    """Decode the configuration of a monitor of ``env``.

    Raises:
        InvalidAnswer: it is unusable.
    """
    config = _decode(body, ConfigAnswer)
    try:
        check_monitor_name(config.tls_name, env)
    except InvalidName as error:
        raise InvalidAnswer(f"tls_name: {error}") from None
    _check_address("ipv4", config.ipv4.ip, 4)
    _check_address("ipv6", config.ipv6.ip, 6)
    if config.broker is not None:
        if not _HOST.fullmatch(config.broker.host):
            raise InvalidAnswer("broker.host: is neither a host name nor an address")
        if config.broker.ca:
            _check_trusted(config.broker.ca)
    return config


def decode_token(body: bytes) -> TokenAnswer:
    """Decode a token for the broker.

    Raises:
        InvalidAnswer: it is unusable.
    """
    answer = _decode(body, TokenAnswer)
    if not _TOKEN.fullmatch(answer.token):
        raise InvalidAnswer("token: must be printable ASCII without white space, of at most 8192 characters")
    if answer.expires_on.tzinfo is None:
        raise InvalidAnswer("expires_on: has no time zone")
    return msgspec.structs.replace(answer, expires_on=answer.expires_on.astimezone(UTC))


def decode_certificate(body: bytes) -> str:
    """Decode a certificate chain; return it as PEM without any other text.

    Raises:
        InvalidAnswer: it is unusable.
    """
    return pem_certificates(_decode(body, CertificateAnswer).certificate)


def decode_registration(body: bytes) -> RegistrationAnswer:
    """Decode the state of a registration.

    Raises:
        InvalidAnswer: it is unusable.
    """
    answer = _decode(body, RegistrationAnswer)
    if answer.url and not _URL.fullmatch(answer.url):
        raise InvalidAnswer("URL: is not an address that a browser can open")
    if answer.key and not _SECRET.fullmatch(answer.key):
        raise InvalidAnswer("APIToken: must be printable ASCII without white space")
    return answer


def pem_certificates(text: str) -> str:
    """Return the certificates in ``text``, without private keys and anything else.

    Raises:
        InvalidAnswer: there is none, or one is malformed.
    """
    found = _CERTIFICATE.findall(text)
    if not found:
        raise InvalidAnswer("contains no certificate")
    try:
        for pem in found:
            ssl.PEM_cert_to_DER_cert(pem)
    except ValueError:
        raise InvalidAnswer("contains a malformed certificate") from None
    return "".join(f"{pem}\n" for pem in found)


def _check_trusted(bundle: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem_certificates(bundle))
    except (InvalidAnswer, OSError, ValueError):
        raise InvalidAnswer("broker.ca: is not a list of certificates") from None


def _check_address(member: str, ip: str | None, version: int) -> None:
    try:
        if ip and ipaddress.ip_address(ip).version != version:
            raise InvalidAnswer(f"{member}.ip: is an address of the other protocol")
    except ValueError:
        raise InvalidAnswer(f"{member}.ip: is not an address") from None


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        answer: Any = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:  # names the member and the types, not the value
        raise InvalidAnswer(str(error)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidAnswer("is not JSON") from None
    found: T = answer
    return found
