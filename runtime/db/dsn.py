"""Parse the ledger's DSN: a SQLAlchemy URL, or the form of the pool's Go programs.

In both forms the last ``@`` ends the password, so that a password with special characters needs no quoting, and no part
of it is parsed as a host, which errors and logs would show. The part after that ``@`` is strictly validated.

Both forms may name several servers, separated by commas, in the order in which they are tried. SQLAlchemy's URL has one
host, which is the first; :func:`servers_of` returns the URLs of all, and :func:`dsn_text` the text to show.
"""

import re
from collections.abc import Sequence
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
_SERVER: Final = r"(?:\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::[0-9]{1,5})?"
_SERVERS: Final = rf"{_SERVER}(?:,{_SERVER})*"
_URL_FORM: Final = re.compile(
    r"(?:(?P<user>[^:]*?)(?::(?P<password>.*))?@)?"
    rf"(?P<servers>{_SERVERS}|(?::[0-9]{{1,5}})?)"
    rf"(?:/{_DATABASE_AND_PARAMETERS})?",
    re.DOTALL,
)
_GO_FORM: Final = re.compile(
    r"(?:(?P<user>[^:@/]*)(?::(?P<password>.*))?@)?"
    rf"(?P<network>tcp|unix)\((?P<address>[^()@]+)\)/{_DATABASE_AND_PARAMETERS}",
    re.DOTALL,
)
_SQLITE_FORM: Final = re.compile(r"(?:/(?P<database>[^?]*)(?:\?(?P<params>.*))?)?", re.DOTALL)
_HOST_PORT: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]*)(?::(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORT: Final = 3306
_OTHERS: Final = "others"
"""Key of a URL's query for the servers after the first, as a tuple; from a DSN, parameters are never tuples."""


class InvalidDsn(ValueError):
    """A DSN that is of no known form. The message never holds the DSN, which may hold a password."""


def parse_dsn(text: str, *, user: str | None = None, password: str | None = None) -> URL:
    """Parse ``text`` into a URL.

    ``text`` is a SQLAlchemy URL (``mysql://``, ``mariadb://``, ``sqlite:///file``) or ``user:pass@tcp(host:port)/db``,
    the form of Go's MySQL driver, whose parameters are ignored. URLs may be percent-encoded. In place of ``host:port``
    there may be several, separated by commas. ``user`` and ``password``, if given, replace those of the text.

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


def servers_of(url: URL) -> list[URL]:
    """Return the URL of each server of the ledger, in the order of the DSN."""
    others = url.query.get(_OTHERS, ())
    first = url.difference_update_query([_OTHERS])
    # With set(), a server without port would get that of the first one.
    return [first, *(first._replace(host=host, port=port) for host, port in map(_host_and_port, others))]


def dsn_text(url: URL, *, hide_password: bool = True, parameters: bool = True) -> str:
    """Return the URL as text with all of its servers, which :func:`parse_dsn` parses again if the password is shown."""
    first, *others = servers_of(url)
    text = (first if parameters else first.set(query={})).render_as_string(hide_password=hide_password)
    if not others:
        return text
    # SQLAlchemy quotes every "@" but the one before the host.
    start = text.index("@") + 1 if "@" in text else text.index("://") + 3
    end = start + len(place_of_server(first))
    return text[:end] + "".join(f",{place_of_server(other)}" for other in others) + text[end:]


def place_of_server(url: URL) -> str:
    """Return host and port of a URL's first server, as in a DSN."""
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
    return host if url.port is None else f"{host}:{url.port}"


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
    others = url.query.get(_OTHERS, ())
    if url.query.keys() - known - ({_OTHERS} if isinstance(others, tuple) else set()):
        raise InvalidDsn(f"database DSN: has unknown parameters after '?'; known are {', '.join(sorted(known))}")
    if any(url.query.get(name, "true") != "true" for name in _VERIFY):
        raise InvalidDsn(f"database DSN: {' and '.join(_VERIFY)} can only be true, or be left out")
    servers = servers_of(url)
    if any(server.port is not None and not 0 < server.port <= 65535 for server in servers):
        raise InvalidDsn("database DSN: its port must be 1 to 65535")
    if len({((server.host or "").lower(), server.port or _DEFAULT_PORT) for server in servers}) < len(servers):
        raise InvalidDsn("database DSN: names a server twice")
    if len(servers) > 1 and "unix_socket" in url.query:
        raise InvalidDsn("database DSN: names several servers, and a socket, which has one")


def _from_url(backend: str, rest: str) -> URL:
    match = _URL_FORM.fullmatch(rest)
    if match is None:
        raise _no_known_form()
    first, *others = match["servers"].split(",")
    host, port = _host_and_port(first)
    return URL.create(
        backend,
        unquote(match["user"]) if match["user"] else None,
        None if match["password"] is None else unquote(match["password"]),
        host or None,
        port,
        None if match["database"] is None else unquote(match["database"]),
        dict(parse_qsl(match["params"] or "")) | _also(others),
    )


def _host_and_port(text: str, default_port: int | None = None) -> tuple[str, int | None]:
    match = _HOST_PORT.fullmatch(text)
    assert match is not None, "the form has been checked"
    return match["host"].strip("[]"), default_port if match["port"] is None else int(match["port"])


def _with_port(text: str) -> str:
    """Return a server with its port, as Go's driver understands it."""
    return text if _host_and_port(text)[1] is not None else f"{text}:{_DEFAULT_PORT}"


def _also(others: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {_OTHERS: tuple(others)} if others else {}


def _from_sqlite(rest: str) -> URL:
    match = _SQLITE_FORM.fullmatch(rest)
    if match is None:
        raise _no_known_form()
    database = None if match["database"] is None else unquote(match["database"])
    return URL.create("sqlite", database=database, query=dict(parse_qsl(match["params"] or "")))


def _from_go(match: re.Match[str]) -> URL:
    query: dict[str, str | tuple[str, ...]] = {}
    host: str | None = None
    port: int | None = None
    if match["network"] == "unix":
        query["unix_socket"] = match["address"]
    else:
        if re.fullmatch(_SERVERS, match["address"]) is None:
            raise InvalidDsn("database DSN: tcp(...) must hold host:port, or several, separated by commas")
        first, *others = match["address"].split(",")
        host, port = _host_and_port(first, _DEFAULT_PORT)
        query |= _also([_with_port(other) for other in others])
    if dict(parse_qsl(match["params"] or "")).get("tls") not in (None, "false"):
        query["ssl_verify_cert"] = "true"
    return URL.create("mysql", match["user"] or None, match["password"], host, port, match["database"], query)
