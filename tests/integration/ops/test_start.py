"""Test that a command starts quickly: it loads the libraries that it needs, and no other large ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from auth.tokens import Role
from ops.commands.token import ROLES
from testbed.paths import CHECKOUT

SERVER_SIDE = {
    *("sqlalchemy", "alembic", "pymysql", "apscheduler", "hvac", "requests", "opentelemetry", "prometheus_client"),
    *("yaml", "mako", "rich"),
}
SETTINGS = {"pydantic_settings"}
"""Without pydantic itself, with which typer reads arguments."""
TOKENS = {"jwt", "cryptography"}
BROKER = {"aiomqtt", "paho"}

PROGRAM = """
import sys
from ops.__main__ import main
code = main(sys.argv[1:])
print("MODULES", code, *sorted({name.partition(".")[0] for name in sys.modules}))
"""

GROUPS = ["selector", "db", "ca", "accounts", "monitors", "servers", "settings", "rejected"]


def loaded(*arguments: str, **settings: str) -> tuple[int, set[str]]:
    """Run a command; return its exit code and the top-level modules that it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=CHECKOUT,
        env={"PATH": os.environ["PATH"], "DEPLOYMENT_MODE": "devel", "JWT_KEY": "k" * 64, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("MODULES ")]
    assert lines, done.stderr
    _, code, *modules = lines[0].split()
    return int(code), set(modules)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["nonsense"],
        ["control", "--help"],
        ["token", "--help"],
        ["demo", "--help"],
        ["ingest", "--help"],
        ["api", "--help"],
        *([group, "--help"] for group in GROUPS),
        ["monitors", "set", "--help"],
        ["servers", "history", "--help"],
        ["settings", "set", "--help"],
    ],
    ids=" ".join,
)
def test_help_loads_no_library(arguments: list[str]) -> None:
    code, modules = loaded(*arguments)
    assert code == (2 if arguments == ["nonsense"] else 0)
    assert modules & (SERVER_SIDE | SETTINGS | TOKENS | BROKER) == set()


def test_control_loads_no_database_library() -> None:
    code, modules = loaded("control", "ingest", "ping", MQTT_PORT="1")
    assert code == 1, "there is no broker, and all the way there was gone"
    assert modules & SERVER_SIDE == set()
    assert modules > BROKER | TOKENS


def test_token_loads_neither_database_nor_broker_library() -> None:
    code, modules = loaded("token", "admin", "me")
    assert code == 0
    assert modules & (SERVER_SIDE | BROKER) == set()


def test_list_loads_no_broker_library(tmp_path: Path) -> None:
    dsn = f"sqlite:///{tmp_path / 'ledger.db'}"
    assert loaded("db", "upgrade", DATABASE_DSN=dsn)[0] == 0
    code, modules = loaded("monitors", "list", DATABASE_DSN=dsn)
    assert code == 0
    # cryptography is loaded by the driver for MySQL.
    assert modules & (BROKER | {"jwt", "opentelemetry", "apscheduler", "hvac", "rich"}) == set()


def test_help_lists_exactly_the_existing_roles() -> None:
    assert list(ROLES) == list(Role)


def test_api_without_a_provider_of_logins_loads_no_http_client() -> None:
    program = 'import sys, api.worker; print(*sorted({name.partition(".")[0] for name in sys.modules}))'
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert {"httpx", "authlib", "joserfc", "rich", "typer"}.isdisjoint(done.stdout.split())
