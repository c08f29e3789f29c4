"""Prepare a command: evaluate the global options, and provide settings, ledger and signing key.

A person waits for most commands, so each command loads only the libraries that it needs: see ``test_start.py``.
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


JSON_OPTION: Final = typer.Option("--json", help="Print JSON.")
SINCE_OPTION: Final = typer.Option(metavar="TIME", help="A day such as 2026-11-30, or an age such as 12h, 7d.")
LIMIT_OPTION: Final = typer.Option(metavar="N", min=1, max=10_000, help="Show only the last N.")


@dataclass(frozen=True, slots=True)
class Globals:
    """The global options as given; ``None`` means that the environment decides."""

    env: str | None = None
    log_level: str | None = None

    @property
    def env_named_by(self) -> str | None:
        """Return the option or variable that names the environment; ``None`` if the default applies."""
        if self.env is not None:
            return "--env"
        return "DEPLOYMENT_MODE" if os.environ.get("DEPLOYMENT_MODE") else None

    def settings(self, **given: Any) -> "WorkerSettings":
        """Return the settings of this command; ``given`` holds its own arguments.

        Raises:
            ConfigurationError: a setting is invalid.
        """
        from runtime.settings import load_settings

        given = {"deployment_mode": self.env, "log_level": self.log_level} | given
        return load_settings(**given)

    def for_a_worker(self) -> "WorkerSettings":
        """Return the settings of a process that runs until it is stopped, and set up its logging."""
        settings = self.settings()
        set_up_logging(settings.log_level)
        return settings

    def for_a_person(self, **given: Any) -> "WorkerSettings":
        """Return the settings of an interactive command, and log only warnings unless asked for more.

        Print the environment to stderr: always if none was named, otherwise only on a terminal.
        """
        settings = self.settings(**given)
        set_up_logging(self.log_level or "warning")
        if self.env_named_by is None:
            print_error(
                f"environment {settings.deployment_mode} (the default: neither --env nor DEPLOYMENT_MODE is set)"
            )
        elif sys.stderr.isatty():
            print_error(f"environment {settings.deployment_mode}")
        return settings


def globals_of(context: typer.Context) -> Globals:
    """Return the global options of this command line."""
    return cast(Globals, context.find_object(Globals) or Globals())


@contextmanager
def database_at(url: "URL") -> "Iterator[Engine]":
    """Open an engine for the duration of a command; database errors name the database.

    Raises:
        OperatorError: the database cannot be reached, or refuses a request.
    """
    from sqlalchemy.exc import DBAPIError

    from runtime.db.engine import open_database
    from runtime.db.retry import DatabaseUnavailable

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
    """Return a database's URL in a form that is safe to show."""
    from runtime.db.dsn import dsn_text

    return dsn_text(url)


@contextmanager
def open_ledger(settings: "WorkerSettings") -> "Iterator[Engine]":
    """Open the ledger and check that it has the version that this program needs.

    Raises:
        OperatorError: the ledger lacks migrations, cannot be reached, or refuses a request.
    """
    from runtime.db import migrate

    with database_at(settings.database_url()) as engine:
        mismatch = migrate.mismatch(engine)
        if mismatch is not None:
            raise OperatorError(f"database {place_of(engine.url)}: {mismatch}")
        yield engine


def check_broker_files(settings: "WorkerSettings") -> None:
    """Read the certificates and key of the broker session now, while the operator is watching.

    Raises:
        OperatorError: they cannot be used. This may be temporary, as between the two files of a renewal, so it is not
            reported as an invalid setting, after which systemd would not restart a worker.
    """
    try:
        settings.broker_address().tls()
    except OSError as error:
        given = ("mqtt_ca_file", "mqtt_cert_file", "mqtt_key_file")
        files = ", ".join(f"{name.upper()}={getattr(settings, name)}" for name in given if getattr(settings, name))
        raise OperatorError(f"{files}: must be matching PEM files: {error}") from None
