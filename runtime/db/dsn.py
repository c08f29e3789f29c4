"""Parse the ledger's DSN: a SQLAlchemy URL, or the form of the pool's Go programs.

In both forms the last ``@`` ends the password, so that a password with special characters needs no quoting, and no part
of it is parsed as a host, which errors and logs would show. The part after that ``@`` is strictly validated.
"""

import re
from typing import Final
from urllib.parse import parse_qsl, unquote

from sqlalchemy.engine import URL

_PARAMETERS: Final = {
    "sqlite": frozenset({"mode", "uri"}),
    "mysql": frozenset(
        {"charset", "unix_socket", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert", "ssl_verify_identity"}
    ),
}
_VERIFY: Final = ("ssl_verify_cert", "ssl_verify_identity")
_SCHEME: Final = re.compile(r"(?P<backend>[a-z0-9]+)(?:\+[a-z0-9]+)?://(?P<rest>.*)", re.DOTALL)
_DATABASE_AND_PARAMETERS: Final = r"(?P<database>[^@/?#:\s]*)(?:\?(?P<params>[^@]*))?"
_URL_FORM: Final = re.compile(
    r"(?:(?P<user>[^:]*?)(?::(?P<password>.*))?@)?"
    r"(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]*)(?::(?P<port>[0-9]{1,5}))?"
    rf"(?:/{_DATABASE_AND_PARAMETERS})?",
    re.DOTALL,
)
_GO_FORM: Final = re.compile(
    r"(?:(?P<user>[^:@/]*)(?::(?P<password>.*))?@)?"
    rf"(?P<network>tcp|unix)\((?P<address>[^()@]+)\)/{_DATABASE_AND_PARAMETERS}",
    re.DOTALL,
)
_SQLITE_FORM: Final = re.compile(r"(?:/(?P<database>[^?]*)(?:\?(?P<params>.*))?)?", re.DOTALL)
_HOST_PORT: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORT: Final = 3306


class InvalidDsn(ValueError):
    """A DSN that is of no known form. The message never holds the DSN, which may hold a password."""


def parse_dsn(text: str, *, user: str | None = None, password: str | None = None) -> URL:
    """Parse ``text`` into a URL.

    ``text`` is a SQLAlchemy URL (``mysql://``, ``mariadb://``, ``sqlite:///file``) or ``user:pass@tcp(host:port)/db``,
    the form of Go's MySQL driver, whose parameters are ignored. URLs may be percent-encoded. ``user`` and
    ``password``, if given, replace those of the text.

    Raises:
        InvalidDsn: it has neither form.
    """
    url = _parse(text)
    _check_parameters(url)
    if url.drivername == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise InvalidDsn("database DSN: names no file, and every connection to SQLite's memory finds it empty")
        return url
    if not url.database:
        raise InvalidDsn("database DSN: names no database")
    if "ssl_ca" in url.query:
        # It implies verification of certificate and identity; with one of these beside it, the driver would ignore it.
        url = url.difference_update_query(_VERIFY)
    return url.set(
        drivername=f"{url.drivername}+pymysql",
        username=user or url.username,
        password=password or url.password,
    )


def _parse(text: str) -> URL:
    """Parse ``text`` into a URL with the kind of database as its driver."""
    scheme = _SCHEME.fullmatch(text)
    backend, rest = ("mysql", text) if scheme is None else (scheme["backend"], scheme["rest"])
    if go := _GO_FORM.fullmatch(rest if backend in ("mysql", "mariadb") else text):
        return _from_go(go)
    if scheme is None:
        raise _no_known_form()
    match backend:
        case "mysql" | "mariadb":
            return _from_url(backend, rest)
        case "sqlite":
            return _from_sqlite(rest)
    # The message does not repeat the kind, since the text before "://" may be part of a password.
    raise InvalidDsn("database DSN: is of a kind that is not supported; known are mysql, mariadb, sqlite")


def _no_known_form() -> InvalidDsn:
    return InvalidDsn("database DSN: must be mysql://user:pass@host/db, sqlite:///file or user:pass@tcp(host:port)/db")


def _check_parameters(url: URL) -> None:
    # The driver would fail on an invalid one only at the first connection. The messages repeat neither, since in a DSN
    # with a missing character, part of the password may look like a port or a parameter.
    known = _PARAMETERS["sqlite" if url.drivername == "sqlite" else "mysql"]
    if url.query.keys() - known:
        raise InvalidDsn(f"database DSN: has unknown parameters after '?'; known are {', '.join(sorted(known))}")
    if any(url.query.get(name, "true") != "true" for name in _VERIFY):
        raise InvalidDsn(f"database DSN: {' and '.join(_VERIFY)} can only be true, or be left out")
    if url.port is not None and not 0 < url.port <= 65535:
        raise InvalidDsn("database DSN: its port must be 1 to 65535")


def _from_url(backend: str, rest: str) -> URL:
    match = _URL_FORM.fullmatch(rest)
    if match is None:
        raise _no_known_form()
    return URL.create(
        backend,
        unquote(match["user"]) if match["user"] else None,
        None if match["password"] is None else unquote(match["password"]),
        match["host"].strip("[]") or None,
        None if match["port"] is None else int(match["port"]),
        None if match["database"] is None else unquote(match["database"]),
        dict(parse_qsl(match["params"] or "")),
    )


def _from_sqlite(rest: str) -> URL:
    match = _SQLITE_FORM.fullmatch(rest)
    if match is None:
        raise _no_known_form()
    database = None if match["database"] is None else unquote(match["database"])
    return URL.create("sqlite", database=database, query=dict(parse_qsl(match["params"] or "")))


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
        port = int(address["port"] or _DEFAULT_PORT)
    if dict(parse_qsl(match["params"] or "")).get("tls") not in (None, "false"):
        query["ssl_verify_cert"] = "true"
    return URL.create("mysql", match["user"] or None, match["password"], host, port, match["database"], query)
