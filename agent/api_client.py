"""Speak HTTP with the management API, with the standard library only.

The API key is sent to one host, over TLS or to loopback; there are no proxies and no redirects, since either would
take it elsewhere. Every request has a deadline, and every answer a maximum size. Not for the daemon: its short-lived
children and the command line use it.
"""

import contextlib
import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal

from agent.version import VERSION
from runtime.loopback import is_loopback
from runtime.printable import printable
from schema.names import IpVersion

CONNECT_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 60.0
MAX_ANSWER: Final = 256 * 1024
"""Maximum bytes of an answer's body."""

NOT_MODIFIED: Final = 304
"""The status of an answer without a body: what the header ``If-None-Match`` names is still valid."""

_LONGEST_TEXT: Final = 500
_FAMILIES: Final[Mapping[IpVersion | None, int]] = {
    None: socket.AF_UNSPEC,
    "v4": socket.AF_INET,
    "v6": socket.AF_INET6,
}
_URL: Final = re.compile(r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?/?")
_ETAG: Final = re.compile(r'(W/)?"[!#-~]{0,200}"')

NOT_YET_VALID: Final = 9
EXPIRED: Final = 10
"""OpenSSL's codes of verification errors that a wrong clock causes, too."""

UNKNOWN_ISSUER: Final = (2, 18, 19, 20, 21)
"""OpenSSL's codes for a certificate that no trusted CA has signed, or that has signed itself."""

Step = Literal["name", "connect", "tls", "answer"]


class ApiUnreachable(Exception):
    """There is no usable answer; the message gives the reason, ``step`` the step that failed. Worth another attempt."""

    def __init__(self, text: str, step: Step) -> None:
        super().__init__(text)
        self.step = step


class InvalidUrl(ValueError):
    """The address of the API is unusable."""


class _Unusable(ValueError):
    """An answer is unusable; the message quotes nothing that we have sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the API."""

    status: int
    content_type: str
    body: bytes = field(repr=False)  # it may hold a key
    date: datetime | None = None
    """The server's clock."""
    peer: str = ""
    etag: str = ""
    """The header ``ETag``, which may be sent as ``If-None-Match``; empty if there is none that is well-formed."""
    seen_as: str = ""
    """Our address as the server sees it, if it tells; whatever it has sent."""

    @property
    def text(self) -> str:
        """The body's text on one line, shortened, safe for a terminal."""
        said = " ".join(self.body.decode("utf-8", "replace").split())
        return printable(said)[:_LONGEST_TEXT]

    def skew(self) -> float | None:
        """Return by how many seconds this host's clock is ahead of the server's; ``None`` if that is unknown."""
        return None if self.date is None else time.time() - self.date.timestamp()


class ApiClient:
    """Send requests to one API.

    Args:
        url: scheme and host, and a port if it is not the default one.
        ca_file: certificates to trust in addition to the system's.
        local: the local address to connect from, by protocol; the kernel chooses for a protocol without one.

    Raises:
        InvalidUrl: the address is malformed, or plain HTTP to another host.
    """

    def __init__(
        self,
        url: str,
        ca_file: Path | None = None,
        *,
        local: Mapping[IpVersion, str] | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> None:
        match = _URL.fullmatch(url)
        if match is None or int(match["port"] or 1) not in range(1, 65536):
            # Not repeated, since it may hold a password.
            raise InvalidUrl("must be an address such as https://api.pool.example, without a path, user or password")
        self.host = match["host"].strip("[]")
        self.tls = match["scheme"] == "https"
        if not self.tls and not is_loopback(self.host):
            raise InvalidUrl(f"{url}: must begin with https://; plain http is for loopback only")
        self.port = int(match["port"] or (443 if self.tls else 80))
        self.url = url.rstrip("/")
        self.ca_file = ca_file
        self._local = {_FAMILIES[ipv]: ip for ipv, ip in (local or {}).items()}
        self._seconds = seconds

    def request(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        family: IpVersion | None = None,
        key: str | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request on a new connection and return the answer, whatever its status.

        Args:
            family: the protocol to use; ``None`` for either.
            key: the API key, for the header ``Authorization``.

        Raises:
            ApiUnreachable: no complete answer arrived in time.
        """
        sent = {"User-Agent": f"ntppool-agent/{VERSION}", "Accept": "application/json, text/plain", **(headers or {})}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        with self._connected(family) as sock:
            link = http.client.HTTPConnection(self.host, self.port)
            link.default_port = 443 if self.tls else 80
            link.sock = sock
            try:
                link.request(method, path, body=body, headers=sent)
                with contextlib.closing(link.getresponse()) as response:
                    return _read(response, str(sock.getpeername()[0]))
            except _Unusable as error:
                reason = str(error)
            except (OSError, http.client.HTTPException) as error:
                reason = _reason(error) or "the connection was cut, or the answer did not come in time"
            except ValueError as error:
                # The library's own message quotes the header that it refuses to send, and so the key.
                reason = f"the request or its answer is malformed ({type(error).__name__})"
            # Not chained, for the same reason.
            raise ApiUnreachable(f"{self.url}: {reason}", "answer") from None

    @contextlib.contextmanager
    def _connected(self, family: IpVersion | None) -> Iterator[socket.socket]:
        sock = self._connect(family)
        try:
            with self._deadline(sock):
                if self.tls:
                    sock = self._encrypt(sock)
                yield sock
        finally:
            sock.close()

    @contextlib.contextmanager
    def _deadline(self, sock: socket.socket) -> Iterator[None]:
        """Cut the connection at the deadline. A peer that sends an octet now and then would satisfy any time-out of the
        socket."""
        with contextlib.ExitStack() as held:
            try:
                guard = held.enter_context(sock.dup())  # TLS takes the socket itself over
                cut = threading.Timer(self._seconds, _shut, [guard])
                cut.daemon = True
                cut.start()
            except (OSError, RuntimeError) as error:  # too many files or threads on this host
                raise ApiUnreachable(f"{self.url}: {_reason(error)}", "answer") from None
            try:
                yield
            finally:
                cut.cancel()
                cut.join()  # it must not touch a descriptor that has been closed

    def _connect(self, family: IpVersion | None) -> socket.socket:
        reason = "it has no address"
        for kind, *_, address in self.resolve(family):
            try:
                return self._connect_to(kind, address)
            except OSError as error:
                reason = _reason(error)
        raise ApiUnreachable(f"{self.url}: {reason}", "connect")

    def _connect_to(self, kind: int, address: tuple[object, ...]) -> socket.socket:
        sock = socket.socket(kind, socket.SOCK_STREAM)  # fails on a host without this protocol
        try:
            sock.settimeout(min(CONNECT_SECONDS, self._seconds))
            if kind in self._local:
                _bind(sock, self._local[kind])
            sock.connect(address)
            sock.settimeout(self._seconds)
        except BaseException:
            sock.close()
            raise
        return sock

    def resolve(self, family: IpVersion | None = None) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        """Return the addresses of the API, as ``socket.getaddrinfo`` does.

        Raises:
            ApiUnreachable: the API has no address of this protocol.
        """
        try:
            found = socket.getaddrinfo(self.host, self.port, _FAMILIES[family], socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            wanted = "" if family is None else f" by IP{family}"
            raise ApiUnreachable(f"{self.host} cannot be resolved{wanted}: {_reason(error)}", "name") from None
        return [(int(kind), int(type_), proto, name, tuple(address)) for kind, type_, proto, name, address in found]

    def _encrypt(self, sock: socket.socket) -> socket.socket:
        try:
            context = ssl.create_default_context()
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.ca_file is not None:
                context.load_verify_locations(self.ca_file)
        except OSError as error:
            raise ApiUnreachable(f"{self.ca_file}: cannot be used: {_reason(error)}", "tls") from None
        try:
            return context.wrap_socket(sock, server_hostname=self.host)
        except ssl.SSLCertVerificationError as error:
            text = f"{self.url}: its certificate is not trusted: {error.verify_message}"
            if error.verify_code in (NOT_YET_VALID, EXPIRED):
                text += f"; or this host's clock is wrong: it says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
            elif error.verify_code in UNKNOWN_ISSUER:
                text += f"; {self._remedy()}"
            raise ApiUnreachable(text, "tls") from None
        except (OSError, ValueError) as error:
            raise ApiUnreachable(f"{self.url}: no TLS connection: {_reason(error)}", "tls") from None

    def _remedy(self) -> str:
        """Say what to do about a certificate of an unknown CA."""
        if self.ca_file is None:
            return "if the pool has a CA of its own, name the file with its certificate in MONITOR_API_CA_FILE"
        return f"{self.ca_file}, which MONITOR_API_CA_FILE has named, is not the certificate of its CA"


def _bind(sock: socket.socket, ip: str) -> None:
    try:
        sock.bind((ip, 0))
    except OSError as error:
        raise OSError(error.errno, f"MONITOR_API_BIND: cannot connect from {ip}: {error.strerror}") from None


def _read(response: http.client.HTTPResponse, peer: str) -> Answer:
    kind = (response.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    date, etag = _date(response.headers.get("Date")), _etag(response.headers.get("ETag"))
    seen_as = response.headers.get("Seen-As") or ""
    if response.status == NOT_MODIFIED:
        return Answer(response.status, kind, b"", date, peer, etag, seen_as)
    if response.length is None and not response.chunked:
        raise _Unusable("the answer was cut, or does not tell its length, so it may be incomplete")
    body = response.read(MAX_ANSWER + 1)
    if len(body) > MAX_ANSWER:
        raise _Unusable(f"the answer is larger than {MAX_ANSWER} bytes")
    if response.length:
        raise _Unusable("the answer was cut")
    if 300 <= response.status < 400:
        raise _Unusable(f"it answers with a redirect (HTTP {response.status}), which is not followed")
    return Answer(response.status, kind, body, date, peer, etag, seen_as)


def _date(text: str | None) -> datetime | None:
    try:
        found = None if text is None else parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return None if found is None or found.tzinfo is None else found.astimezone(UTC)


def _etag(text: str | None) -> str:
    return text if text is not None and _ETAG.fullmatch(text) else ""


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error.strerror or "broken off")
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(str(said))[:200]
