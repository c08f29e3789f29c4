"""Open the connections to MySQL and MariaDB: to which server, with which password, and with which session.

The DSN may name several servers, such as the nodes of a Galera cluster. One that refuses or does not answer in time,
that is read-only, or that is not a synchronous member of its cluster, is passed over (:mod:`runtime.db.servers`).
"""

import logging
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from typing import Any, Final

import pymysql
import sqlalchemy as sa
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions, convert_datetime
from sqlalchemy.engine import URL, Dialect, Engine
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from runtime.db.bulk import JsonText, mysql_literal, stored_day
from runtime.db.dsn import place_of_server, servers_of
from runtime.db.retry import Reaction, reaction_to
from runtime.db.servers import Choice
from runtime.log import OngoingWarning
from runtime.settings import ConfigurationError

log = logging.getLogger(__name__)

ANSWER_WITHIN: Final = 60.0
"""Maximum seconds for each answer of a server; statements that may take longer use
:func:`runtime.db.engine.wait_without_end`."""

LOOK_AGAIN: Final = 10.0
"""Seconds after which a connection is checked for a server that has become read-only, or has left its cluster."""

SIGN_IN_AGAIN: Final = 5.0
"""Seconds until a refused password is retried: servers lock accounts after repeated failures, and a worker has many
connections. A different password is tried at once."""

_TIMEOUTS: Final = {"connect_timeout": 5, "read_timeout": ANSWER_WITHIN, "write_timeout": ANSWER_WITHIN}

_TIMEOUTS_OF_SEVERAL: Final = {"connect_timeout": 2, "read_timeout": 4, "write_timeout": 4}
"""While a connection to one of several servers is set up: a frozen server accepts connections, but does not answer."""

_WRONG_PASSWORD: Final = frozenset({1045, 1698})
_NO_TLS: Final = 2026
"""The driver's error number for a failed TLS setup."""
_NOT_PREPARED: Final = 1047
_READ_ONLY: Final = 1290
_UNKNOWN_VARIABLE: Final = 1193

_OFF: Final = (0, "OFF")
"""Values of a switch: a number, or text since MariaDB 12."""

_SYNCED: Final = "4"
"""Value of ``wsrep_local_state``; 2 is a donor, which may block while it sends its data to another node."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """Credentials that a server refused, and its error."""

    url: URL
    since: float
    error_args: tuple[Any, ...]

    def holds(self, url: URL) -> bool:
        """Return whether the same credentials should not be tried now."""
        return url == self.url and time.monotonic() - self.since < SIGN_IN_AGAIN


class Connecting:
    """Hooks that open connections, and invalidate them after a move of the primary.

    After a move, the name resolves to another server, or ``database.yaml`` names another one. The old server may stay
    readable, so a process that only reads would never get an error.
    """

    def __init__(self, url: URL, reread: Callable[[], URL]) -> None:
        self._url = url
        self._reread = reread
        self._warning = OngoingWarning(log)
        self._refused: dict[str, _Refused] = {}
        self._choice = Choice()

    def attach(self, engine: Engine) -> None:
        """Register the hooks that open, set up and check the connections of ``engine``."""
        sa.event.listen(engine, "do_connect", self._connect)
        sa.event.listen(engine, "checkout", self._check)

    def _connect(
        self, dialect: Dialect, record: ConnectionPoolEntry, args: list[Any], parameters: dict[str, Any]
    ) -> Any:
        url = self._url = self._read()
        record.info["url"] = url
        servers = servers_of(url)
        if len(servers) > 1:
            record.info["server"], driver = self._to_one_of(dialect, servers)
            return driver
        record.info["server"] = servers[0]
        self._choice.choose(servers[0])
        return self._sign_in(dialect, servers[0], _TIMEOUTS)

    def _to_one_of(self, dialect: Dialect, servers: list[URL]) -> "tuple[URL, _MySqlConnection]":
        """Connect to the first server that is fit, or else to the first one that answers.

        Raises:
            pymysql.MySQLError: no server answers, or an error that another server would not mend.
        """
        failures: list[tuple[URL, pymysql.MySQLError]] = []
        spare: tuple[URL, _MySqlConnection] | None = None
        with ExitStack() as unused:
            for server in self._choice.in_order(servers):
                try:
                    driver, unfit = self._examine(dialect, server)
                except pymysql.MySQLError as error:
                    if reaction_to(error) is Reaction.DEFECT:
                        raise
                    self._choice.failed(server)
                    failures.append((server, error))
                    continue
                if unfit is None:
                    self._choose(server, failures)
                    return server, driver
                failures.append((server, unfit))
                if spare is None:
                    spare = server, driver
                    unused.callback(driver.close)
                else:
                    driver.close()
            if spare is None:
                raise pymysql.OperationalError(failures[0][1].args[0], f"no server answers: {_listed(failures)}")
            unused.pop_all()
        self._choose(spare[0], failures)
        return spare

    def _choose(self, server: URL, failures: Sequence[tuple[URL, pymysql.MySQLError]]) -> None:
        if self._choice.choose(server) and failures:
            log.warning("database: %s is used from now on; %s", place_of_server(server), _listed(failures))

    def _examine(self, dialect: Dialect, server: URL) -> "tuple[_MySqlConnection, pymysql.MySQLError | None]":
        """Connect to one of several servers, and return the reason, if any, why another one should be preferred.

        Raises:
            pymysql.MySQLError: it does not answer in time, or cannot be used at all.
        """
        driver = self._sign_in(dialect, server, _TIMEOUTS_OF_SEVERAL)
        try:
            unfit = _why_unfit(driver)
        except BaseException:
            driver.close()
            raise
        driver.allow(_TIMEOUTS)
        return driver, unfit

    def _sign_in(self, dialect: Dialect, url: URL, timeouts: Mapping[str, float]) -> "_MySqlConnection":
        refused = self._refused.get(place_of_server(url))
        if refused is not None and refused.holds(url):
            raise pymysql.OperationalError(*refused.error_args)
        of_url = dialect.create_connect_args(url.update_query_dict({"charset": "utf8mb4"}))[1]
        if url.password is not None:
            # The driver would encode Latin-1, and on failure show the password in its error.
            of_url["password"] = str(url.password).encode("utf-8", "surrogateescape")
        try:
            driver = _MySqlConnection(**{**of_url, **timeouts, "conv": _CONVERSIONS})
        except pymysql.OperationalError as error:
            if error.args[0] in _WRONG_PASSWORD:
                self._refused[place_of_server(url)] = _Refused(url, time.monotonic(), error.args)
            raise
        except OSError as error:
            # For a certificate that is not readable now; later failures are errors of the driver already.
            raise pymysql.OperationalError(_NO_TLS, f"TLS to the database: {error}") from error
        try:
            _set_up(driver)
        except BaseException:
            driver.close()
            raise
        return driver

    def _read(self) -> URL:
        try:
            url = self._reread()
            if url.get_backend_name() == "sqlite":
                raise ConfigurationError("DATABASE_DSN: is SQLite now, which requires a restart")
            if url.username is None and self._url.username is not None:
                raise ConfigurationError("DATABASE_DSN: its user is no longer in a file or in Vault")
        except ConfigurationError as error:
            # The file is being replaced, or Vault is unavailable: the previous URL may still be valid.
            self._warning.warning("%s; continuing with the previous URL", error)
            return self._url
        self._warning.over()
        return url

    def _check(self, connection: Any, record: ConnectionPoolEntry, fairy: object) -> None:
        now = time.monotonic()
        if "checked" not in record.info:
            # A new connection is not checked, since there may be only a read-only server.
            record.info["checked"] = now
            return
        if record.info["url"] != self._url:
            raise InvalidatePoolError("the database's URL has changed")
        if not self._choice.is_chosen(record.info["server"]):
            raise InvalidatePoolError("another server of the database is used now")
        if now - record.info["checked"] >= LOOK_AGAIN:
            record.info["checked"] = now
            if not _is_fit(connection):
                raise InvalidatePoolError("the server is read-only, without its cluster, or unreachable")


class _MySqlConnection(pymysql.Connection):
    """Connection that does not load the system's CA certificates for TLS that verifies none.

    Without TLS parameters, the driver uses TLS if the server offers it, and accepts any certificate. Yet it loads all
    certificates for each connection, which takes 50 ms of CPU time and blocks all threads: a worker that opens its
    connections again after an outage would stall for half a second.
    """

    def _create_ssl_ctx(self, parameters: dict[str, Any]) -> ssl.SSLContext:
        if not parameters:
            return _unverified_tls()
        context: ssl.SSLContext = super()._create_ssl_ctx(parameters)  # type: ignore[misc]  # not in the stubs
        return context

    @cached_property
    def in_cluster(self) -> bool:
        """Whether the server is a node of a Galera cluster."""
        try:
            with self.cursor() as cursor:
                cursor.execute("SELECT @@wsrep_on")
                return cursor.fetchall()[0][0] not in _OFF
        except pymysql.MySQLError as error:
            if error.args[0] == _UNKNOWN_VARIABLE:
                return False
            raise

    def allow(self, timeouts: Mapping[str, float]) -> None:
        """Set the time limits of later statements, which the driver reads for each."""
        self._read_timeout, self._write_timeout = timeouts["read_timeout"], timeouts["write_timeout"]


@cache
def _unverified_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _listed(failures: Iterable[tuple[URL, pymysql.MySQLError]]) -> str:
    return "; ".join(f"{place_of_server(server)}: {error.args[-1]}" for server, error in failures)


# ---- sessions --------------------------------------------------------------------------------------------------------


def _set_up(driver: _MySqlConnection) -> None:
    # TIMESTAMP columns are converted to the session's zone, which must be UTC. And MariaDB would truncate the text of
    # JSON_ARRAYAGG.
    with driver.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00', innodb_lock_wait_timeout = 20, group_concat_max_len = 1073741824")
    if driver.in_cluster:
        # A node of a Galera cluster may not have applied yet what another node has committed and acknowledged. With
        # this, the first statement of each transaction waits until it has.
        with driver.cursor() as cursor:
            cursor.execute("SET wsrep_sync_wait = 7")


def _why_unfit(driver: _MySqlConnection) -> pymysql.MySQLError | None:
    """Return the reason why another server should be preferred to this one, if another one can be used.

    SHOW does not wait for the cluster, which answers nothing for seconds after it has lost a node.

    Raises:
        pymysql.MySQLError: this one cannot be used.
    """
    if driver.in_cluster:
        states = _shown(driver, "STATUS", "wsrep_(ready|cluster_status|local_state)")
        if states.get("wsrep_ready") != "ON" or states.get("wsrep_cluster_status") != "Primary":
            raise pymysql.OperationalError(_NOT_PREPARED, "the node has left its cluster, or is joining it")
        if states.get("wsrep_local_state") != _SYNCED:
            return pymysql.OperationalError(_NOT_PREPARED, "the node sends its data to another one, or is behind")
    # Amazon Aurora sets only the latter on its replicas.
    if set(_shown(driver, "VARIABLES", "(innodb_)?read_only").values()) != {"OFF"}:
        return pymysql.OperationalError(_READ_ONLY, "the server is read-only")
    return None


def _shown(driver: _MySqlConnection, what: str, names: str) -> dict[str, str]:
    with driver.cursor() as cursor:
        cursor.execute(f"SHOW GLOBAL {what} WHERE `Variable_name` REGEXP '^{names}$'")
        return dict(cursor.fetchall())


def _is_fit(driver: _MySqlConnection) -> bool:
    try:
        return _why_unfit(driver) is None
    except pymysql.MySQLError:
        return False


def _read_datetime(text: str) -> datetime | str | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return convert_datetime(text)  # an invalid date such as 0000-00-00


_CONVERSIONS: Final = {
    **conversions,
    # Rows of scores are mostly times, and the driver's conversion takes as long as the rest of a row.
    FIELD_TYPE.DATETIME: _read_datetime,
    FIELD_TYPE.TIMESTAMP: _read_datetime,
    FIELD_TYPE.DATE: stored_day,
    JsonText: mysql_literal,
}
