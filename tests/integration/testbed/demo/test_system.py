"""Test the parts of a demo: files, environments, spools, and the check that the database is empty."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, Connection, Engine

from agent.delivery.spool import Batched, Spool
from agent.delivery.ulid import new_ulid
from agent.state import StateDirectory
from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from testbed.demo.store import require_empty
from testbed.fixtures.world import add_account, add_monitor, add_server
from testbed.process import Process
from testbed.site import Site, agent_command, make_site, python_command, worker_command
from testbed.spools import is_empty, read_spools
from testbed.stack import CannotRun
from testbed.world import make_world

WORLD = make_world(2, 2, 11123)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, None)


# ---- files and environments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jwt.key", "env", "monitor", "logs"])
def test_files_with_a_key_or_its_path_are_private_to_the_owner(site: Site, name: str) -> None:
    assert (site.directory / name).stat().st_mode & 0o077 == 0


def test_settings_of_another_pool_on_this_machine_do_not_reach_the_demo(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ("DATABASE_DSN", "JWT_KEY", "VAULT_ADDR", "VAULT_TOKEN", "MONITOR_LOG_LEVEL", "MQTT_HOST", "PYTHONPATH")
    for name in others:
        monkeypatch.setenv(name, "of another pool")
    for command in (worker_command(site, "ingest"), agent_command(site, WORLD.monitors[0])):
        assert "of another pool" not in command.env.values()
        assert command.env["DEPLOYMENT_MODE"] == "devel"
        assert command.env["HOME"] == str(site.directory)
    assert agent_command(site, WORLD.monitors[0]).env["MONITOR_DEFAULTS_FILE"] == "/dev/null"


def test_no_argument_of_a_process_holds_a_secret(site: Site) -> None:
    key = (site.directory / "jwt.key").read_text().strip()
    for command in (worker_command(site, "ingest"), agent_command(site, WORLD.monitors[0])):
        assert not [argument for argument in command.argv if key in argument or "sqlite:" in argument]


@pytest.fixture
def somebody_types() -> Iterator[None]:
    """Provide input on this process's stdin."""
    ours, (there, end) = os.dup(0), os.pipe()
    os.write(end, b"typed")
    os.close(end)
    os.dup2(there, 0)
    yield
    os.dup2(ours, 0)
    os.close(ours)
    os.close(there)


@pytest.mark.usefixtures("somebody_types")
async def test_process_has_its_own_session_and_empty_stdin(site: Site) -> None:
    program = "import os, sys; print(os.getsid(0) == os.getpid(), repr(sys.stdin.read()), os.getcwd())"
    process = Process(python_command(site, "it", "x"))
    process.command = type(process.command)(
        "it", [sys.executable, "-c", program], os.environ, site.log_of("it"), site.directory
    )
    await process.start()
    async with asyncio.timeout(20):
        assert await process.wait() == 0
    assert site.log_of("it").read_text() == f"True '' {site.directory}\n"


# ---- spools ----------------------------------------------------------------------------------------------------------


def opened(directory: StateDirectory, ipv: str) -> Spool:
    path = directory.spool / ipv
    path.parent.mkdir(parents=True, exist_ok=True)
    return Spool(path, max_bytes=10**6, max_age=10**10)


def put(spool: Spool, results: int) -> tuple[int, str]:
    number, made = spool.reserve(), Batched(id=new_ulid(10**18), results=results, created=10**9, payload=b"x")
    spool.admit(number, spool.store(number, made), 10**9)
    return number, made.id


def test_spooled_dropped_and_set_aside_data_of_both_protocols_is_counted(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "agent", "devel")
    assert is_empty(directory)
    v4, v6 = opened(directory, "v4"), opened(directory, "v6")
    assert is_empty(directory)
    _, first = put(v4, 3)
    assert not is_empty(directory)
    _, second = put(v6, 4)
    v4.drop_results(5)
    v6.drop_results(6)
    refused, _ = put(v4, 1)
    v4.set_aside(refused)
    torn, _ = put(v6, 1)
    next(
        path for path in (directory.spool / "v6").iterdir() if path.name.isdigit() and int(path.name) == torn
    ).write_bytes(b"x")
    assert v6.read(torn) is None
    found = read_spools({7: directory})
    assert found.waiting == {(7, first): 3, (7, second): 4}
    assert found.dropped == {7: 11}
    assert found.set_aside == 2


# ---- the database ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(URL.create("sqlite", database=str(tmp_path / "ledger.db")))
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    ("add", "table"),
    [
        (add_account, "accounts"),
        (lambda connection: add_server(connection, "192.0.2.1"), "servers"),
        (lambda connection: add_monitor(connection, "a.devel.mon.example"), "monitors"),
    ],
)
def test_database_that_is_not_empty_is_refused(ledger: Engine, add: Callable[[Connection], object], table: str) -> None:
    with ledger.begin() as connection:
        require_empty(connection)
        add(connection)
        with pytest.raises(CannotRun, match=f"^--database-url: the database has rows in {table};"):
            require_empty(connection)
