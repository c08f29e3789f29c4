"""Test the operators' command line: its output, and one clear line for every invalid argument or setting."""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from ops.__main__ import main
from runtime.db.engine import open_database, transaction, utc_now
from schema.names import ENVIRONMENTS
from schema.tables import assignment_changes, monitors, rejected_messages, servers
from testbed.fixtures.world import add_account, add_monitor, add_pair, add_server, monitor_name

KEY = "0123456789abcdef" * 4
SETTINGS = (
    *("DEPLOYMENT_MODE", "LOG_LEVEL", "JWT_KEY", "JWT_KEY_FILE", "DATABASE_DSN", "VAULT_ADDR", "STATE_DIRECTORY"),
    *("MQTT_HOST", "MQTT_PORT", "MQTT_CA_FILE", "METRICS_ADDRESS", "METRICS_PORT", "DEMO_DATABASE_URL"),
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dsn(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, dsn: str) -> Run:
    """Return a function that runs a command with settings, and returns exit code, stdout and stderr."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)  # a directory without database.yaml
    monkeypatch.setenv("DATABASE_DSN", dsn)
    monkeypatch.setenv("JWT_KEY", KEY)
    monkeypatch.setenv("DEPLOYMENT_MODE", "devel")

    def run(*arguments: str, **settings: str | None) -> tuple[int, str, str]:
        for name, value in settings.items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        capfd.readouterr()
        code = main(arguments)
        written = capfd.readouterr()
        return code, written.out, written.err

    return run


@pytest.fixture
def ledger(sqlite_engine: Engine, dsn: str) -> str:
    """Return the DSN of a migrated database with a few rows."""
    assert sqlite_engine.url.database == dsn.removeprefix("sqlite:///")

    def rows(connection):  # type: ignore[no-untyped-def]
        account = add_account(connection, "Ticks & Tocks")
        add_monitor(connection, monitor_name("nlams1-a"), "v4", account_id=account, status="pending")
        add_monitor(connection, monitor_name("nlams1-a"), "v6", account_id=account)
        add_server(connection, "192.0.2.1", account_id=account, score=19.5)

    transaction(sqlite_engine, rows)
    sqlite_engine.dispose()
    return dsn


def one_line(err: str) -> str:
    assert err.startswith("ntppool-monitor: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("level", ["warn", "WARNING", "Info"])
def test_log_level_accepts_common_aliases_in_any_case(run: Run, ledger: str, level: str) -> None:
    assert run("--log-level", level, "db", "status")[0] == 0


# ---- invalid arguments and settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["--env", "staging", "db", "status"], "--env 'staging': must be one of prod, test, devel"),
        (["--log-level", "loud", "db", "status"], "--log-level 'loud': must be one of debug"),
        (["db", "downgrade"], "downgrade"),
        (["token", "king", "x"], "role 'king': must be one of monitor"),
        (["token", "admin"], "NAME"),
        (["token", "admin", "a/b"], "name 'a/b'"),
        (["token", "monitor", "x.prod.example"], "belongs to prod, not to devel"),
        (["token", "admin", "me", "--lifetime", "1h"], "--lifetime '1h': must be"),
        (["token", "admin", "me", "--lifetime", "soon"], "--lifetime 'soon': must be a time such as"),
        (["token", "admin", "me", "--lifetime", "0s"], "--lifetime '0s'"),
        (["token", "admin", "me", "--env", "staging"], "DEPLOYMENT_MODE=staging"),
        (["control", "reporter", "ping"], "service 'reporter': must be one of ingest, scorer, selector"),
        (["control", "x.prod.example", "ping"], "belongs to prod, not to devel"),
        (["control", "ingest", "log-level", "--level", "loud"], "--level 'loud': must be one of debug"),
        (["control", "scorer", "rescore", "--server", "0"], "--server 0"),
        (["control", "scorer", "rescore", "--server", "x"], "--server"),
        (["control", "scorer", "ping", "--timeout", "0"], "--timeout 0"),
        (["demo", "--agents", "0"], "--agents 0: must be 1 to"),
        (["demo", "--servers", "many"], "--servers"),
        (["demo", "--seconds", "0"], "--seconds 0"),
        (["demo", "--ntp", "192.0.2.1"], "--ntp '192.0.2.1': must be a server on this machine"),
        (["demo", "--ntp", "127.20.0.1"], "--ntp 127.20.0.1: the demo uses this address itself"),
        (["demo", "--database-url", "oracle://u:secret@h/d"], "--database-url"),
    ],
)
def test_invalid_argument_is_reported_in_one_line_that_names_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert named in one_line(err)
    assert "secret" not in err
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"DEPLOYMENT_MODE": "staging"}, "DEPLOYMENT_MODE=staging"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL=loud"),
        ({"DATABASE_DSN": "postgresql://u:secret@h/d"}, "DATABASE_DSN: "),
        ({"DATABASE_DSN": "u:secret@nowhere"}, "DATABASE_DSN: "),
        ({"JWT_KEY": None}, "JWT_KEY or JWT_KEY_FILE"),
        ({"JWT_KEY": "hunter2"}, "JWT_KEY: key for tokens: has 7 bytes"),
        ({"JWT_KEY": None, "JWT_KEY_FILE": "/nowhere/key"}, "JWT_KEY_FILE: is not a readable file"),
        ({"MQTT_HOST": "broker.example"}, "MQTT_CA_FILE: needed for broker.example"),
        ({"MQTT_PORT": "0"}, "MQTT_PORT=0"),
        ({"MQTT_CA_FILE": "/nowhere/ca.pem"}, "MQTT_CA_FILE=/nowhere/ca.pem"),
        (
            {"METRICS_ADDRESS": "192.0.2.1", "METRICS_PORT": "9100"},
            "METRICS_ADDRESS=192.0.2.1, METRICS_PORT=9100: must",
        ),
    ],
)
@pytest.mark.parametrize("command", ["ingest", "scorer", "selector"])
def test_worker_with_an_invalid_setting_exits_with_2_and_one_line(
    run: Run, ledger: str, command: str, settings: dict[str, str], named: str
) -> None:
    code, out, err = run(*([command, "server"] if command == "selector" else [command]), **settings)
    assert (code, out) == (2, "")
    assert named in one_line(err)
    assert "secret@" not in err and "hunter2" not in err and KEY not in err


def test_two_invalid_settings_are_reported_in_two_lines(run: Run) -> None:
    code, _, err = run("db", "status", LOG_LEVEL="loud", MQTT_PORT="x")
    assert code == 2
    assert [line.split("=")[0] for line in err.splitlines()] == [
        "ntppool-monitor: LOG_LEVEL",
        "ntppool-monitor: MQTT_PORT",
    ]


@pytest.mark.parametrize("command", [["ingest"], ["scorer"], ["selector", "server"]])
def test_worker_without_tables_in_the_database_names_the_command_to_run(run: Run, command: list[str]) -> None:
    code, _, err = run(*command)
    assert code == 2
    assert "ntppool-monitor db upgrade" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "command",
    [["monitors", "list"], ["servers", "add", "192.0.2.7"], ["selector", "simulate", "1"], ["selector", "once"]],
)
def test_command_without_tables_in_the_database_names_the_command_to_run(run: Run, command: list[str]) -> None:
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert "run 'ntppool-monitor db upgrade'" in one_line(err)


@pytest.mark.parametrize("command", [["monitors", "list"], ["db", "status"], ["db", "upgrade"]])
def test_unreachable_database_is_reported_in_one_line(run: Run, command: list[str]) -> None:
    code, _, err = run(*command, DATABASE_DSN="mysql://somebody:secret@127.0.0.1:1/ledger")
    assert code == 1
    assert "database mysql+pymysql://somebody:***@127.0.0.1:1/ledger: " in one_line(err)
    assert "secret" not in err


@pytest.mark.parametrize("service", ["ingest", "scorer"])
def test_mismatched_tls_files_are_a_temporary_error(run: Run, ledger: str, service: str) -> None:
    """Certificate and key may differ during a renewal, and systemd does not restart a worker after exit code 2."""
    code, _, err = run(service, MQTT_CA_FILE="/etc/passwd")
    assert code == 1
    assert "MQTT_CA_FILE=/etc/passwd: must be matching PEM files" in one_line(err)


@pytest.mark.parametrize("command", [["monitors", "list"], ["db", "upgrade"], ["ingest"]])
def test_file_that_is_not_a_database_is_reported_in_one_line(run: Run, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "thesis.txt").write_text("42")
    code, _, err = run(*command, DATABASE_DSN=f"sqlite:///{tmp_path}/thesis.txt")
    assert code == 1
    *before, warning = err.splitlines(keepends=True)
    assert [" starts for devel: " in line for line in before] in ([], [True]), "a worker says first that it starts"
    assert f"database sqlite:///{tmp_path}/thesis.txt: file is not a database" in one_line(warning)


def test_unreachable_broker_is_reported_in_one_line(run: Run) -> None:
    code, out, err = run("control", "ingest", "ping", MQTT_PORT="1")
    assert (code, out) == (1, "")
    assert "broker mqtt://localhost:1" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["monitors", "show", "nobody"], "monitor 'nobody': not found"),
        (["monitors", "pause", "nlams1-a"], "monitor 'nlams1-a': is ambiguous"),
        (["monitors", "resume", "nlams1-a/v6"], "is active; it can only be resumed when it is paused"),
        (["servers", "show", "192.0.2.99"], "server '192.0.2.99': not found"),
        (["servers", "add", "192.0.2.1"], "server 192.0.2.1: already exists"),
        (["servers", "add", "192.0.2.2", "--account", "nobody"], "account 'nobody'"),
        (["selector", "simulate", "99"], "server '99': not found"),
    ],
)
def test_command_that_contradicts_the_ledger_is_refused_with_the_reason(
    run: Run, ledger: str, arguments: list[str], named: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert named in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["monitors", "list", "--status", "happy"], "--status 'happy': must be one of pending"),
        (["servers", "add", "time.example"], "address 'time.example'"),
        (["servers", "add", "192.0.2.9", "--port", "0"], "--port 0"),
        (["servers", "delete", "192.0.2.1", "--on", "tomorrow"], "--on 'tomorrow': must be a day such as"),
    ],
)
def test_invalid_values_are_named(run: Run, ledger: str, arguments: list[str], named: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert named in one_line(err)


# ---- results of commands -------------------------------------------------------------------------------------------


def test_only_the_token_is_printed_to_stdout(run: Run) -> None:
    code, out, err = run("token", "monitor", "nlams1-a.devel.mon.example")
    assert (code, err) == (0, "")
    assert out.count(".") == 2 and out.count("\n") == 1 and out.isascii()


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_token_belongs_to_the_requested_environment(run: Run, env: str) -> None:
    name = f"nlams1-a.{env}.mon.example"
    assert run("token", "monitor", name, "--env", env)[0] == 0
    assert run("--env", env, "token", "monitor", name)[0] == 0
    assert run("token", "monitor", name, DEPLOYMENT_MODE=env)[0] == 0


@pytest.mark.parametrize(
    ("role", "lifetime", "seconds"),
    [
        ("admin", None, 300),
        ("admin", "5m", 300),
        ("admin", "1", 1),
        ("observer", "12h", 43_200),
        ("observer", "90s", 90),
        ("exporter", "7d", 604_800),
        ("exporter", "1095d", 94_608_000),
        ("server", None, 21_600),
    ],
)
def test_token_has_the_requested_lifetime(run: Run, role: str, lifetime: str | None, seconds: int) -> None:
    code, out, _ = run("token", role, "me", *([] if lifetime is None else ["--lifetime", lifetime]))
    assert code == 0
    claims = jwt.decode(out.strip(), KEY, algorithms=["HS384"], options={"verify_nbf": False})
    assert claims["exp"] - claims["iat"] == seconds
    assert (claims["sub"], claims["role"]) == ("me", role)


@pytest.mark.parametrize(("role", "lifetime"), [("admin", "301s"), ("observer", "13h"), ("exporter", "1096d")])
def test_lifetime_beyond_the_limit_of_the_role_is_refused(run: Run, role: str, lifetime: str) -> None:
    code, out, err = run("token", role, "me", "--lifetime", lifetime)
    assert (code, out) == (2, "")
    assert f"--lifetime {lifetime!r}: must be a time such as" in one_line(err)


@pytest.mark.parametrize(
    ("version", "advice"), [("0001", "run 'ntppool-monitor db upgrade'"), ("9999", "update this program")]
)
def test_ledger_of_another_version_is_refused_and_left_unchanged(
    run: Run, ledger: str, version: str, advice: str
) -> None:
    engine = open_database(URL.create("sqlite", database=ledger.removeprefix("sqlite:///")))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE `alembic_version` SET `version_num` = ?", (version,))
    engine.dispose()
    for arguments in (["monitors", "list"], ["servers", "add", "192.0.2.77"], ["selector", "simulate", "1"]):
        code, out, err = run(*arguments)
        assert (code, out) == (1, "")
        assert f"is at version {version}, this program needs " in one_line(err)
        assert one_line(err).rstrip().endswith(advice)
    assert run("db", "status")[0] == 1


def test_ledger_of_a_newer_release_is_not_upgraded(run: Run, ledger: str) -> None:
    engine = open_database(URL.create("sqlite", database=ledger.removeprefix("sqlite:///")))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE `alembic_version` SET `version_num` = '9999'")
    engine.dispose()
    code, out, err = run("db", "upgrade")
    assert (code, out) == (1, "")
    assert one_line(err).rstrip().endswith("it is of a newer release: update this program")


@pytest.mark.parametrize("role", ["monitor", "admin", "observer", "server", "exporter"])
def test_token_without_an_explicit_environment_is_refused(run: Run, role: str) -> None:
    for unset in (None, ""):
        code, out, err = run("token", role, "nlams1-a.prod.mon.example", DEPLOYMENT_MODE=unset)
        assert (code, out) == (2, "")
        assert "environment: must be named with --env (prod, test, devel) or DEPLOYMENT_MODE" in one_line(err)


@pytest.mark.parametrize("arguments", [["monitors", "list"], ["servers", "delete", "1"], ["db", "status"]])
def test_command_prints_its_environment_if_it_is_the_default(run: Run, ledger: str, arguments: list[str]) -> None:
    assert run("--env", "devel", *arguments, DEPLOYMENT_MODE=None)[2] == ""
    code, _, err = run(*arguments, DEPLOYMENT_MODE=None)
    assert code == 0
    assert re.match(
        r"ntppool-monitor: environment (prod|test|devel) \(the default: neither --env nor DEPLOYMENT_MODE is set\)\n",
        err,
    )


def test_db_status_and_upgrade_report_the_version(run: Run) -> None:
    assert run("db", "status")[0] == 1
    assert "was at none" in run("db", "upgrade")[1]
    assert "was at" not in run("db", "upgrade")[1]
    code, out, err = run("db", "status")
    assert (code, err) == (0, "") and "at version" in out


def test_several_monitors_are_changed_atomically(run: Run, ledger: str) -> None:
    assert run("monitors", "pause", "nlams1-a/v4", "nobody")[0] == 1
    assert "nlams1-a" in run("monitors", "list", "--status", "pending")[1]
    code, out, _ = run("monitors", "pause", "nlams1-a/v4", "nlams1-a/v6")
    assert (code, out.count("is paused")) == (0, 2)


def test_lists_written_to_a_pipe_are_separated_by_tabs(run: Run, ledger: str) -> None:
    lines = [line.split("\t") for line in run("servers", "list")[1].splitlines()]
    assert lines[0][:5] == ["id", "address", "hostname", "account", "score"]
    assert lines[1][1:5] == ["192.0.2.1", "", "Ticks & Tocks", "19.5"]


def test_simulate_prints_text_or_json(run: Run, ledger: str) -> None:
    text, machine = run("selector", "simulate", "192.0.2.1")[1], run("selector", "simulate", "1", "--json")[1]
    assert "rule 1: leave at once" in text
    assert machine.startswith('{"server": {"id": 1, "ip": "192.0.2.1"')


EVIL = "nlams1-e\x1b[31m\n2 fake.devel.mon.example"
SEEN = r"nlams1-e\x1b[31m\n2 fake.devel.mon.example"


@pytest.fixture
def evil(ledger: str) -> None:
    """Add a monitor and a server whose texts contain terminal control characters."""
    engine = open_database(URL.create("sqlite", database=ledger.removeprefix("sqlite:///")))

    def rows(connection):  # type: ignore[no-untyped-def]
        monitor = add_monitor(connection, EVIL, "v4")
        connection.execute(sa.update(monitors).where(monitors.c.id == monitor).values(client_version="1\x9b2J"))
        add_pair(connection, add_server(connection, "192.0.2.66"), monitor)
        connection.execute(sa.update(servers).where(servers.c.ip == "192.0.2.66").values(hostname="h\u202eost"))

    transaction(engine, rows)
    engine.dispose()


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (["monitors", "list"], SEEN),
        (["monitors", "list"], r"1\x9b2J"),
        (["monitors", "show", "3"], SEEN),
        (["monitors", "pause", "3"], r"nlams1-e\x1b[31m\n2 fake"),
        (["servers", "list"], r"h\u202eost"),
        (["servers", "show", "192.0.2.66"], SEEN),
        (["selector", "simulate", "192.0.2.66"], SEEN),
        (["monitors", "resume", "3"], r"nlams1-e\x1b[31m\n2 fake"),
        (["control", "a\x1b[2J\nb", "ping"], r"a\x1b[2J\nb"),
    ],
)
def test_terminal_control_characters_are_shown_as_escapes(
    run: Run, evil: None, arguments: list[str], seen: str
) -> None:
    _, out, err = run(*arguments)
    assert seen in out + err
    assert all(line.isprintable() for line in (out + err).replace("\t", "").split("\n"))
    assert "\n2 fake" not in out + err


def test_help_or_missing_arguments_print_the_usage() -> None:
    for arguments, code in ([["--help"], 0], [[], 2], [["monitors"], 2]):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ops", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": os.environ["PATH"]},
        )
        assert done.returncode == code
        assert "Usage: ntppool-monitor" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_closed_pipe_is_not_an_error(ledger: str) -> None:
    shell = f"{shlex.quote(sys.executable)} -P -m ops servers list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "DATABASE_DSN": ledger, "DEPLOYMENT_MODE": "devel"},
    )
    assert done.stderr == ""


# ---- additions and changes -----------------------------------------------------------------------------------------


def as_json(said: tuple[int, str, str]) -> Any:
    code, out, err = said
    assert (code, err) == (0, ""), err
    assert out.count("\n") == 1 and out.isascii()
    return json.loads(out)


def done(said: tuple[int, str, str]) -> list[str]:
    code, out, err = said
    assert (code, err) == (0, ""), err
    return out.splitlines()


def test_a_pool_is_set_up_without_sql(run: Run) -> None:
    assert run("db", "upgrade")[0] == 0
    [said] = done(
        run(
            *("accounts", "add", "Ticks", "--organization", "Ticks Ltd", "--url", "https://ticks.example/"),
            *("--slug", "ticks", "--token", "21wase0", "--monitor-limit", "4", "--monitors-per-server", "1"),
            "--monitor-enabled",
        )
    )
    assert said == "account Ticks (id 1, token 21wase0): added"
    account = as_json(run("accounts", "show", "ticks", "--json"))
    assert account.pop("created").endswith("Z")
    assert account == {
        "id": 1,
        "token": "21wase0",
        "slug": "ticks",
        "name": "Ticks",
        "organization": "Ticks Ltd",
        "url": "https://ticks.example/",
        "monitors": [],
        "servers": 0,
        "monitor_limit": 4,
        "monitors_per_server_limit": 1,
        "monitor_enabled": True,
    }
    assert done(run("accounts", "set", "ticks", "--no-monitor-enabled", "--unset", "monitor-limit")) == [
        "account Ticks (id 1): monitor_enabled: was yes, is no",
        "account Ticks (id 1): monitor_limit: was 4, is not set",
    ]
    name = "uspao1-21wase0.devel.mon.example"
    assert done(
        run(
            *("monitors", "add", name, "192.0.2.7", "--account", "ticks", "--status", "testing", "--location", "PAO"),
            *("--hostname", "m.example", "--base-check", "192.0.2.53", "--base-check", "time.example"),
            *("--samples", "4", "--nat-ip", "10.0.0.7", "--log-level", "debug"),
        )
    ) == [f"{name}/v4 (id 1): added as testing"]
    shown = as_json(run("monitors", "show", "uspao1-21wase0", "--json"))
    assert {
        key: shown[key] for key in ("name", "protocol", "address", "status", "account", "hostname", "location")
    } == {
        "name": name,
        "protocol": "v4",
        "address": "192.0.2.7",
        "status": "testing",
        "account": "Ticks (id 1)",
        "hostname": "m.example",
        "location": "PAO",
    }
    assert json.loads(shown["config"]) == {
        "base_checks": ["192.0.2.53", "time.example"],
        "samples": 4,
        "nat_ip": "10.0.0.7",
        "otlp_log_level": "debug",
    }
    assert done(
        run(
            *("monitors", "set", "1", "--address", "192.0.2.8", "--status", "active", "--samples", "5"),
            *("--base-check", "192.0.2.54", "--unset", "nat-ip", "--unset", "account"),
        )
    ) == [
        "uspao1-21wase0/v4 (id 1): address: was 192.0.2.7, is 192.0.2.8",
        "uspao1-21wase0/v4 (id 1): account id: was 1, is not set",
        "uspao1-21wase0/v4 (id 1): status: was testing, is active",
        "uspao1-21wase0/v4 (id 1): base_checks: was 192.0.2.53, time.example, is 192.0.2.54",
        "uspao1-21wase0/v4 (id 1): samples: was 4, is 5",
        "uspao1-21wase0/v4 (id 1): nat_ip: was 10.0.0.7, is not set",
    ]
    assert done(run("monitors", "defaults", "v4", "--base-check", "192.0.2.55", "--samples", "2")) == [
        "all IPv4 monitors: base_checks: was not set, is 192.0.2.55",
        "all IPv4 monitors: samples: was not set, is 2",
    ]
    assert as_json(run("monitors", "defaults", "v4", "--json")) == {
        "protocol": "v4",
        "base_checks": "192.0.2.55",
        "samples": 2,
        "log_level": None,
    }
    [listed] = as_json(run("monitors", "list", "--json"))
    assert (listed["name"], listed["online"], listed["last_seen"]) == (name, None, None)


def test_a_server_is_added_and_changed_without_sql(run: Run, ledger: str) -> None:
    assert done(run("servers", "add", "192.0.2.9", "--hostname", "a.example", "--account", "1", "--port", "1123")) == [
        "192.0.2.9 (id 2): added"
    ]
    assert done(run("servers", "set", "192.0.2.9", "--hostname", "b.example", "--unset", "account")) == [
        "192.0.2.9 (id 2): account_id: was 1, is not set",
        "192.0.2.9 (id 2): hostname: was a.example, is b.example",
    ]
    assert json.loads(as_json(run("servers", "show", "2", "--json"))["flags"]) == {"port": 1123}


def test_settings_are_set_shown_and_reset(run: Run, ledger: str) -> None:
    assert done(run("settings", "set", "monitors.interval_active", "8m")) == [
        "monitors.interval_active: was 9m, is 8m; workers apply it within a minute"
    ]
    [shown] = as_json(run("settings", "show", "monitors.interval_active", "--json"))
    assert (shown["value"], shown["is_set"], shown["default"]) == ("8m", True, "9m")
    assert "monitors.interval_active = 8m (set)" in done(run("settings", "show"))
    assert "is 9m, its default" in done(run("settings", "reset", "monitors.interval_active"))[0]
    assert "all its settings have their defaults" in done(run("settings", "reset", "monitors"))[0]


def test_histories_and_rejected_messages_are_shown(run: Run, ledger: str) -> None:
    engine = open_database(URL.create("sqlite", database=ledger.removeprefix("sqlite:///")))
    now = utc_now().replace(microsecond=0)
    move = {"server_id": 1, "monitor_id": 1, "before_status": "active", "after_status": "testing", "changed_on": now}
    message = {"topic": "/devel/x", "payload_hash": "h", "reason": "no JSON", "payload": b"\x1b[2J\xff", "bytes": 6}

    def rows(connection):  # type: ignore[no-untyped-def]
        connection.execute(sa.insert(assignment_changes).values(reason="rule 2: unhealthy", **move))
        connection.execute(sa.insert(rejected_messages).values(first_seen=now, last_seen=now, **message))
        connection.execute(sa.update(servers).values(stratum=2))

    transaction(engine, rows)
    engine.dispose()
    at = f"{now.isoformat()}Z"
    expected = {"at": at, "change": "active -> testing", "reason": "rule 2: unhealthy"}
    assert as_json(run("servers", "history", "192.0.2.1", "--json")) == [
        expected | {"monitor": monitor_name("nlams1-a")}
    ]
    assert as_json(run("monitors", "history", "nlams1-a/v4", "--json")) == [expected | {"server": "192.0.2.1"}]
    assert as_json(run("monitors", "history", "nlams1-a/v4", "--since", "2099-01-01", "--json")) == []
    assert as_json(run("servers", "show", "1", "--json"))["stratum"] == 2
    [listed] = as_json(run("rejected", "list", "--json"))
    assert (listed["id"], listed["topic"], listed["times"]) == (1, "/devel/x", 1)
    assert as_json(run("rejected", "list", "--topic", "nobody", "--json")) == []
    assert as_json(run("rejected", "show", "1", "--json"))["payload_base64"] == "G1sySv8="
    assert done(run("rejected", "show", "1"))[-1] == r"\x1b[2J\xff"


def test_raw_payload_is_written_to_a_pipe_unchanged(run: Run, ledger: str) -> None:
    engine = open_database(URL.create("sqlite", database=ledger.removeprefix("sqlite:///")))
    now = utc_now()
    message = {"topic": "/devel/x", "payload_hash": "h", "reason": "no JSON", "payload": b"\x1b\r\n\xff", "bytes": 4}
    transaction(
        engine, lambda c: c.execute(sa.insert(rejected_messages).values(first_seen=now, last_seen=now, **message))
    )
    engine.dispose()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ops", "rejected", "show", "1", "--raw"],
        capture_output=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "DATABASE_DSN": ledger, "DEPLOYMENT_MODE": "devel"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\x1b\r\n\xff", b"")


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["accounts", "add", "X", "--monitor-limit", "0"], 2, "--monitor-limit 0: must be 1 to 1000"),
        (["accounts", "set", "1"], 2, "accounts set: nothing to change"),
        (["accounts", "show", "nobody"], 1, "account 'nobody': no account has that id"),
        (["accounts", "set", "nobody", "--slug", "x"], 1, "account 'nobody': no account has that id"),
        (["monitors", "add", "short", "192.0.2.9"], 2, "monitor name 'short': must be <short>.<env>.<domain>"),
        (["monitors", "add", "a.prod.mon.example", "192.0.2.9"], 2, "belongs to prod, not to devel"),
        (["monitors", "add", "a.devel.mon.example", "here"], 2, "address 'here'"),
        (["monitors", "add", "nlams1-a.devel.mon.example", "192.0.2.9"], 1, "already exists (id 1"),
        (["monitors", "add", "a.devel.mon.example", "192.0.2.9", "--account", "nobody"], 1, "account 'nobody'"),
        (["monitors", "set", "1"], 2, "monitors set: nothing to change"),
        (["monitors", "set", "nlams1-a", "--samples", "3"], 1, "is ambiguous"),
        (["monitors", "defaults", "v5"], 2, "protocol 'v5': must be one of v4, v6"),
        (["monitors", "defaults", "v4", "--unset", "location"], 2, "--unset location: has no default"),
        (["monitors", "history", "nobody"], 1, "monitor 'nobody': not found"),
        (["monitors", "delete", "1"], 2, "give --yes"),
        (["servers", "set", "1"], 2, "servers set: nothing to change"),
        (["servers", "set", "192.0.2.99", "--hostname", "x"], 1, "server '192.0.2.99': not found"),
        (["servers", "history", "192.0.2.99"], 1, "server '192.0.2.99': not found"),
        (["servers", "history", "1", "--since", "soon"], 2, "--since 'soon': must be a day"),
        (["settings", "set", "monitors.samples", "0"], 2, "monitors.samples: '0': must be a whole number, 1 to 10"),
        (["settings", "set", "monitor.samples", "3"], 2, "did you mean monitors.samples?"),
        (["settings", "reset", "clocks"], 2, "key 'clocks': must be one of monitors, scorer, selector"),
        (["rejected", "show", "7"], 1, "message 7: not found"),
        (["rejected", "show", "x"], 2, "ID"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_impossible_additions_and_changes_are_refused_with_the_reason(
    run: Run, ledger: str, arguments: list[str], code: int, named: str
) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert named in one_line(err)
