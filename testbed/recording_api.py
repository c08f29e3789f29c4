"""A management API for tests: it answers as agreed, records every request, and can lose, delay or break any answer."""

import contextlib
import hashlib
import json
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs

from testbed.ports import ADDRESS, ADDRESS_V6, free_port, has_ipv6

CONFIRM: Final = "https://pool.example/manage/monitors/confirm/0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Asked:
    """A recorded request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer: str

    @property
    def key(self) -> str | None:
        """The API key in it."""
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None

    @property
    def form(self) -> dict[str, str]:
        """The fields of a form."""
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to give."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Octets of the body after which the connection is closed."""
    seconds: float = 0.0
    """Delay."""


def say(**members: Any) -> Reply:
    """Return a JSON answer."""
    return Reply(body=json.dumps(members).encode())


def refuse(status: int, text: str) -> Reply:
    """Return a refusal in words."""
    return Reply(status, text.encode(), "text/plain; charset=utf-8")


class RecordingApi:
    """An API on both loopback addresses. A context manager.

    The answers are decided when a request has arrived; :attr:`lose` then loses some of them, after the API has acted.
    """

    def __init__(self, *, name: str = "uspao1-acc1.devel.mon.example", tls: tuple[Path, Path] | None = None) -> None:
        self.name = name
        self.asked: list[Asked] = []
        self.confirmed = True
        """Whether registrations are confirmed as soon as all addresses have been seen."""
        self.keys: dict[str, str] = {}
        """The API key by Registration-ID."""
        self.refused_keys: set[str] = set()
        self.over: set[str] = set()
        """Registrations whose key is not repeated any more."""
        self.broker: dict[str, Any] = {"host": "127.0.0.1", "port": 1883}
        self.status = "testing"
        self.lose: Callable[[int], bool] = lambda number: False
        """Called with the number of a request, from 0; whether to lose its answer."""
        self.overrides: dict[str, Callable[[Asked], Reply]] = {}
        """Answers by path that replace the usual ones."""
        self.tag: str | None = None
        """The tag of the configuration; by default, one that differs with its content."""
        self.clock_ahead = 0.0
        """Seconds by which the API's clock is ahead."""
        self.token_lifetime = timedelta(hours=6)
        self.addresses: dict[str, dict[str, str]] = {}
        self.port = free_port()
        self.scheme = "http" if tls is None else "https"
        self._tls = tls
        self._lock = threading.Lock()
        self._running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    @property
    def url(self) -> str:
        """The URL, by a name that has both addresses."""
        return f"{self.scheme}://localhost:{self.port}"

    def to(self, path: str) -> list[Asked]:
        """Return the requests to ``path``."""
        return [asked for asked in self.asked if asked.path.partition("?")[0] == path]

    # ---- answers ---------------------------------------------------------------------------------------------------

    def answer(self, asked: Asked) -> Reply:
        """Act on a request and return the answer."""
        path = asked.path.partition("?")[0]
        if path in self.overrides:
            return self.overrides[path](asked)
        if path == "/monitor/api/registration":
            return self._registration(asked)
        if not self.accepts(asked):
            return refuse(401, "this API key is not valid")
        if path == "/monitor/api/config":
            return self._config(asked.headers.get("if-none-match"))
        return refuse(404, "there is nothing here")

    def accepts(self, asked: Asked) -> bool:
        """Return whether the API key of a request is valid."""
        return asked.key is not None and asked.key not in self.refused_keys and asked.key in self.keys.values()

    def _registration(self, asked: Asked) -> Reply:
        number = asked.headers["registration-id"]
        seen = self.addresses.setdefault(number, {})
        polls = number in self.keys or asked.peer in seen.values()
        seen["v6" if ":" in asked.peer else "v4"] = asked.peer
        if number in self.over:
            return say(URL=CONFIRM, Status="completed")
        if polls and self.confirmed:
            key = self.keys.setdefault(number, f"ntpm_{secrets.token_hex(32)}")
            return say(URL=CONFIRM, Status="accepted", APIToken=key)
        return say(URL=CONFIRM, Status="pending")

    def _config(self, known: str | None) -> Reply:
        seen = {ipv: ip for addresses in self.addresses.values() for ipv, ip in addresses.items()}
        protocols = {
            f"ip{ipv}": {"ip": seen.get(ipv, ""), "status": self.status if ipv in seen else ""} for ipv in ("v4", "v6")
        }
        made = say(name=self.name.partition(".")[0], tls_name=self.name, broker=self.broker, api_version=1, **protocols)
        tag = self.tag if self.tag is not None else f'"{hashlib.sha256(made.body).hexdigest()[:32]}"'
        return Reply(304, headers={"ETag": tag}) if known == tag else replace(made, headers={"ETag": tag})

    # ---- the server ------------------------------------------------------------------------------------------------

    def handle(self, asked: Asked) -> Reply | None:
        """Record a request; return the answer, or ``None`` if it is to be lost."""
        with self._lock:
            number = len(self.asked)
            self.asked.append(asked)
            reply = self.answer(asked)
        return None if self.lose(number) else reply

    def date(self) -> str:
        """Return the API's clock as a header."""
        return format_datetime(datetime.now(UTC) + timedelta(seconds=self.clock_ahead), usegmt=True)

    def __enter__(self) -> Self:
        for host in (ADDRESS, *((ADDRESS_V6,) if has_ipv6() else ())):
            server = _server(host, self.port, self)
            if self._tls is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*self._tls)
                server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
            thread.start()
            self._running.append((server, thread))
        return self

    def __exit__(self, *_: object) -> None:
        for server, thread in self._running:
            server.shutdown()
            thread.join()
            server.server_close()
        self._running.clear()


def _server(host: str, port: int, api: RecordingApi) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that goes away, or does not trust us, is part of the tests."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = api.handle(Asked(self.command, self.path, headers, body, self.client_address[0]))
            self.close_connection = True
            if reply is None:
                return
            time.sleep(reply.seconds)
            self.send_response_only(reply.status)
            sent = {
                "Date": api.date(),
                "Content-Type": reply.content_type,
                "Content-Length": str(len(reply.body)),
                **reply.headers,
            }
            for name, value in sent.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(reply.body[: reply.cut])

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are recorded instead."""

    return Server((host, port), Handler)


@contextlib.contextmanager
def recording_api(**settings: Any) -> Iterator[RecordingApi]:
    """Yield a running API."""
    with RecordingApi(**settings) as api:
        yield api
