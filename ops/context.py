"""The start of every command: the global options, and from them settings, ledger and signing key.

A person waits for most commands, so each loads the libraries that it needs, and no others: see ``test_start.py``.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import typer

from ops.errors import OperatorError
from ops.output import print_error
from runtime.log import set_up_logging

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine

    from runtime.settings import WorkerSettings


JSON_OPTION: Final = typer.Option("--json", help="For machines.")
SINCE_OPTION: Final = typer.Option(metavar="TIME", help="A day such as 2026-11-30, or a time such as 12h, 7d.")
LIMIT_OPTION: Final = typer.Option(metavar="N", min=1, max=10_000, help="The last N.")


@dataclass(frozen=True, slots=True)
class Globals:
    """The global options as given; None: as the environment says."""

    env: str | None = None
    log_level: str | None = None

    @property
    def env_named_by(self) -> str | None:
        """The option or variable that names the environment to act on; None: nothing does, so it is the default."""
        if self.env is not None:
            return "--env"
        return "DEPLOYMENT_MODE" if os.environ.get("DEPLOYMENT_MODE") else None

    def settings(self, **given: Any) -> "WorkerSettings":
        """The settings of this command; ``given`` are its own arguments.

        Raises:
            ConfigurationError: one is wrong.
        """
        from runtime.settings import load_settings

        given = {"deployment_mode": self.env, "log_level": self.log_level} | given
        return load_settings(**given)

    def for_a_worker(self) -> "WorkerSettings":
        """Settings of a process that runs until it is told to stop; it logs what it does."""
        settings = self.settings()
        set_up_logging(settings.log_level)
        return settings

    def for_a_person(self, **given: Any) -> "WorkerSettings":
        """Settings of a command that somebody waits for; it logs what is wrong, or as much as was asked for.

        It says on stderr which environment it acts on: always where nobody named one, else on a terminal.
        """
        settings = self.settings(**given)
        set_up_logging(self.log_level or "warning")
        if self.env_named_by is None:
            print_error(f"environment {settings.deployment_mode}: neither --env nor DEPLOYMENT_MODE names another")
        elif sys.stderr.isatty():
            print_error(f"environment {settings.deployment_mode}")
        return settings


def globals_of(context: typer.Context) -> Globals:
    """The global options that this command was called with."""
    return cast(Globals, context.find_object(Globals) or Globals())


@contextmanager
def database_at(url: "URL") -> "Iterator[Engine]":
    """An engine for as long as a command needs it; what goes wrong with the database is told with its place.

    Raises:
        OperatorError: the database cannot be reached, or refuses.
    """
    from sqlalchemy.exc import DBAPIError

    from runtime.db.engine import DatabaseUnavailable, open_database

    engine = open_database(url)
    try:
        yield engine
    except DatabaseUnavailable as error:
        raise OperatorError(f"database {place_of(url)}: {error}") from None
    except DBAPIError as error:
        raise OperatorError(f"database {place_of(url)}: {error.orig}") from None
    finally:
        engine.dispose()


def place_of(url: "URL") -> str:
    """A database's URL as it may be shown."""
    return url.render_as_string(hide_password=True)


@contextmanager
def open_ledger(settings: "WorkerSettings") -> "Iterator[Engine]":
    """The ledger, at the version that this program knows.

    Raises:
        OperatorError: it lacks migrations, cannot be reached, or refuses.
    """
    from runtime.db import migrate

    with database_at(settings.database_url()) as engine:
        found, needed = migrate.current(engine), migrate.newest()
        if found != needed:
            raise OperatorError(
                f"database {place_of(engine.url)}: is at version {found or 'none'}, this program needs {needed}: "
                "run 'ntppool-monitor db upgrade'"
            )
        yield engine


def check_broker_files(settings: "WorkerSettings") -> None:
    """Reads certificates and key of the broker session now, while somebody looks.

    Raises:
        OperatorError: they cannot be used. That may be for the moment, as between the two files of a renewal, so it is
            no wrong setting, after which systemd would not start a worker again.
    """
    try:
        settings.broker_address().tls()
    except OSError as error:
        given = ("mqtt_ca_file", "mqtt_cert_file", "mqtt_key_file")
        files = ", ".join(f"{name.upper()}={getattr(settings, name)}" for name in given if getattr(settings, name))
        raise OperatorError(f"{files}: must be PEM files that belong together: {error}") from None
