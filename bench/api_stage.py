"""Run API processes in a benchmark: their certificate, a CA for agents, and API keys."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.engine import Connection

from auth.api_key_store import add_key
from auth.api_keys import Peppers, derive_pepper
from auth.ca.files import FileAuthority
from bench.stage import Stage
from bench.world import ENV
from runtime.db.engine import from_db, transaction, utc_now
from testbed.ports import ADDRESS
from testbed.process import Command
from testbed.site import API, python_command
from testbed.tls import LocalCa


def prepare_files(directory: Path) -> ssl.SSLContext:
    """Write the API's certificate and a CA for agents; return what clients trust."""
    ca = LocalCa()
    made = ca.issue(ADDRESS)
    for name, text in (("api.cert.pem", made.certificate), ("api.key.pem", made.key)):
        path = directory / name
        path.touch(mode=0o600)
        path.write_text(text)
    FileAuthority(directory / "ca", ENV).create()
    return ssl.create_default_context(cadata=ca.certificate)


def add_keys(on: Stage, monitor_ids: Sequence[int]) -> list[str]:
    """Add an API key for each of these monitors; return the keys."""
    peppers, now = Peppers(derive_pepper(on.key_file.read_text())), from_db(utc_now())

    def add(connection: Connection) -> list[str]:
        return [
            add_key(connection, peppers, now, account_id=None, monitor_ids=[monitor_id])[1].clear
            for monitor_id in monitor_ids
        ]

    return transaction(on.engine, add)


def api_command(on: Stage, name: str, port: int) -> Command:
    """Return the command of an API process that listens on ``port``, after :func:`prepare_files`."""
    directory = on.site.directory
    settings = {
        **on.site.settings(),
        "CA_DIRECTORY": str(directory / "ca"),
        "API_PORT": str(port),
        "API_CERT_FILE": str(directory / "api.cert.pem"),
        "API_KEY_FILE": str(directory / "api.key.pem"),
    }
    return python_command(on.site, name, "ops", API, settings=settings)
