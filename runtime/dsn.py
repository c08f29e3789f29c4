"""Where the ledger is: a SQLAlchemy URL, or the form that the pool's Go programs are configured with."""

import re
from typing import Final
from urllib.parse import parse_qsl

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_BACKENDS: Final = ("mysql", "mariadb", "sqlite")
_PARAMETERS: Final = {
    "sqlite": frozenset({"mode", "uri"}),
    "mysql": frozenset(
        {"charset", "unix_socket", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert", "ssl_verify_identity"}
    ),
}
_VERIFY: Final = ("ssl_verify_cert", "ssl_verify_identity")
_GO_FORM: Final = re.compile(
    r"(?:(?P<user>[^:@/]*)(?::(?P<password>.*))?@)?"  # the password may hold any character, so the last @ ends it
    r"(?P<network>tcp|unix)\((?P<address>[^()]+)\)"
    r"/(?P<database>[^?/]*)"
    r"(?:\?(?P<params>.*))?",
    re.DOTALL,
)
_HOST_PORT: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(?P<port>\d{1,5}))?")


class InvalidDsn(ValueError):
    """A DSN that is of no known form. The message never holds the DSN, which may hold a password."""


def parse_dsn(text: str, *, user: str | None = None, password: str | None = None) -> URL:
    """The URL that ``text`` stands for.

    ``text`` is a SQLAlchemy URL (``mysql://``, ``mariadb://``, ``sqlite:///file``) or ``user:pass@tcp(host:port)/db``,
    as Go's MySQL driver takes it; that driver's parameters have no meaning here and are left out. ``user`` and
    ``password``, where given, replace what the text says.

    Raises:
        InvalidDsn: it is neither.
    """
    go = _GO_FORM.fullmatch(text)
    url = _from_go(go) if go else _from_url(text)
    _check_parameters(url)
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise InvalidDsn("database DSN: names no file, and every connection to SQLite's memory finds it empty")
        return url.set(drivername="sqlite")
    if not url.database:
        raise InvalidDsn("database DSN: names no database")
    if "ssl_ca" in url.query:
        # It has certificate and identity verified by itself; with one of these beside it, the driver would forget it.
        url = url.difference_update_query(_VERIFY)
    return url.set(
        drivername=f"{url.get_backend_name()}+pymysql",
        username=user or url.username,
        password=password or url.password,
    )


def _check_parameters(url: URL) -> None:
    # The driver would fail on a wrong one with an error of its own, at the first connection. Neither is repeated: in a
    # DSN with a character forgotten, what looks like a port or a parameter is part of the password.
    known = _PARAMETERS["sqlite" if url.get_backend_name() == "sqlite" else "mysql"]
    if url.query.keys() - known:
        raise InvalidDsn(f"database DSN: has unknown parameters after '?'; known are {', '.join(sorted(known))}")
    if any(url.query.get(name, "true") != "true" for name in _VERIFY):
        raise InvalidDsn(f"database DSN: {' and '.join(_VERIFY)} can only be true, or be left out")
    if url.port is not None and not 0 < url.port <= 65535:
        raise InvalidDsn("database DSN: its port must be 1 to 65535")


def _from_url(text: str) -> URL:
    try:
        url = make_url(text)
        backend = url.get_backend_name()
    except (ArgumentError, ValueError):
        raise InvalidDsn(
            "database DSN: must be mysql://user:pass@host/db, sqlite:///file or user:pass@tcp(host:port)/db"
        ) from None
    if backend not in _BACKENDS:
        raise InvalidDsn(f"database DSN: {backend!r} is not supported, only {', '.join(_BACKENDS)}")
    return url


def _from_go(match: re.Match[str]) -> URL:
    query: dict[str, str] = {}
    host: str | None = None
    port: int | None = None
    if match["network"] == "unix":
        query["unix_socket"] = match["address"]
    else:
        address = _HOST_PORT.fullmatch(match["address"])
        if address is None:
            raise InvalidDsn("database DSN: tcp(...) must hold host:port")
        host = address["host"].strip("[]")
        port = int(address["port"] or 3306)
    if dict(parse_qsl(match["params"] or "")).get("tls") not in (None, "false"):
        query["ssl_verify_cert"] = "true"
    return URL.create("mysql", match["user"] or None, match["password"], host, port, match["database"], query)
