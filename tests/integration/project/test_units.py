"""Test the systemd units: systemd accepts them, their commands exist, and they disclose no secrets."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.settings import load_settings
from testbed.paths import CHECKOUT

UNITS = sorted(unit for unit in (CHECKOUT / "deploy" / "systemd").glob("*.service") if "reload" not in unit.name)
"""The units of processes that run until they are stopped."""
RELOADING = [CHECKOUT / "deploy" / "systemd" / f"ntppool-broker-reload@.{kind}" for kind in ("path", "service")]
OURS = {"ntppool-monitor": "ops", "ntppool-agent": "agent"}
CLOSED = [
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectControlGroups=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "RemoveIPC=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    "SystemCallErrorNumber=EPERM",
    "UMask=0077",
]
"""Lines of [Service] in all units."""

TO_FIND_INTERFACES = {
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX": "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK"
}

RELOAD = "ExecReload=/bin/sh -c 'kill -HUP $MAINPID'"


WRITE_LISTS = "ReadWritePaths=-/var/lib/ntppool-monitor/crl"


def _worker(name: str, command: str, high: str, most: str, *more: str) -> dict[str, list[str]]:
    return {
        "Unit": [
            f"Description=NTP Pool {name}, %i",
            "Wants=network-online.target time-sync.target",
            "After=network-online.target time-sync.target ntppool-broker@%i.service mariadb.service mysql.service",
        ],
        "Service": [
            "Type=exec",
            "User=ntppool-monitor",
            "EnvironmentFile=/etc/ntppool-monitor/%i.env",
            f"ExecStart=/usr/bin/ntppool-monitor --env %i {command}",
            "StateDirectory=ntppool-monitor/server",
            "StateDirectoryMode=0700",
            "WorkingDirectory=/var/lib/ntppool-monitor/server",
            "Restart=always",
            "RestartSec=2",
            "RestartPreventExitStatus=2",
            "TimeoutStopSec=10",
            *more,
            f"MemoryHigh={high}",
            f"MemoryMax={most}",
            "TasksMax=64",
            *CLOSED,
        ],
        "Install": ["WantedBy=multi-user.target"],
    }


SAID = {
    "ntppool-agent@.service": {
        "Unit": [
            "Description=NTP Pool monitoring agent, %i",
            "Wants=network-online.target time-sync.target",
            "After=network-online.target time-sync.target",
        ],
        "Service": [
            "Type=exec",
            "NotifyAccess=main",
            "User=ntppool-agent",
            "ExecStart=/usr/bin/ntppool-agent --env %i monitor",
            RELOAD,
            "StateDirectory=ntppool-agent",
            "StateDirectoryMode=0700",
            "Restart=always",
            "RestartSec=10",
            "RestartPreventExitStatus=2",
            "TimeoutStopSec=10",
            "MemoryHigh=96M",
            "MemoryMax=128M",
            "TasksMax=32",
            *CLOSED,
        ],
        "Install": ["WantedBy=multi-user.target"],
    },
    "ntppool-api@.service": _worker("API", "api", "768M", "1G", "LimitNOFILE=4096", WRITE_LISTS),
    "ntppool-broker@.service": {
        "Unit": [
            "Description=NTP Pool MQTT broker, %i",
            "Wants=network-online.target time-sync.target",
            "After=network-online.target time-sync.target",
        ],
        "Service": [
            "Type=exec",
            "User=mosquitto",
            "ExecStart=/usr/sbin/mosquitto -c /etc/ntppool-monitor/broker/mosquitto.%i.conf",
            RELOAD,
            "StateDirectory=ntppool-monitor/broker/%i",
            "StateDirectoryMode=0700",
            "Restart=always",
            "RestartSec=2",
            "TimeoutStopSec=60",
            "LimitNOFILE=3072",
            "MemoryMax=2G",
            "TasksMax=16",
            *(TO_FIND_INTERFACES.get(line, line) for line in CLOSED),
        ],
        "Install": ["WantedBy=multi-user.target"],
    },
    "ntppool-ingest@.service": _worker("ingest", "ingest", "768M", "1G"),
    "ntppool-notifier@.service": _worker("notifier", "notifier", "512M", "768M"),
    "ntppool-scorer@.service": _worker("scorer", "scorer", "512M", "768M"),
    "ntppool-selector@.service": _worker("selector", "selector server", "768M", "1G"),
    "ntppool-web@.service": {
        "Unit": [
            "Description=NTP Pool public pages, %i",
            "Wants=network-online.target time-sync.target",
            "After=network-online.target time-sync.target mariadb.service mysql.service",
        ],
        "Service": [
            "Type=exec",
            "DynamicUser=yes",
            "EnvironmentFile=/etc/ntppool-monitor/%i.web.env",
            "ExecStart=/usr/bin/ntppool-monitor --env %i web",
            "Restart=always",
            "RestartSec=2",
            "RestartPreventExitStatus=2",
            "TimeoutStopSec=10",
            "LimitNOFILE=4096",
            "MemoryHigh=384M",
            "MemoryMax=512M",
            "TasksMax=64",
            *CLOSED,
        ],
        "Install": ["WantedBy=multi-user.target"],
    },
}
"""All lines of each unit. The reasons are in the units."""


def sections(unit: Path) -> dict[str, list[str]]:
    """Return the lines of each section, without comments."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            found[heading[1]] = []
        elif line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


def settings(unit: Path) -> dict[str, str]:
    """Return the last value of each setting."""
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))


def test_each_process_has_a_unit() -> None:
    services = ("agent", "api", "broker", "ingest", "notifier", "scorer", "selector", "web")
    assert [unit.name for unit in UNITS] == [f"ntppool-{service}@.service" for service in services]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_reload_works_on_a_host_without_procps(unit: Path) -> None:
    assert "/kill" not in settings(unit).get("ExecReload", "")


def test_systemd_accepts_all_units(tmp_path: Path) -> None:
    for unit in (*UNITS, *RELOADING):
        # Only the program's path differs from an installed system.
        text = re.sub(r"^ExecStart=\S+", f'ExecStart="{sys.executable}"', unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name.replace("@", "@devel")).write_text(text)
    names = sorted(str(path) for path in tmp_path.iterdir())
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, timeout=60, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.parametrize("unit", [unit for unit in UNITS if "broker" not in unit.name], ids=lambda unit: unit.name)
def test_the_command_of_the_unit_exists(unit: Path) -> None:
    program, *arguments = settings(unit)["ExecStart"].replace("%i", "devel").split()
    helped = subprocess.run(
        [sys.executable, "-P", "-m", OURS[Path(program).name], *arguments, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )
    assert (helped.returncode, helped.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_have_exactly_the_expected_lines(unit: Path) -> None:
    assert sections(unit) == SAID[unit.name]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_are_unprivileged_limited_and_restarted(unit: Path) -> None:
    found = settings(unit)
    if found.get("DynamicUser") != "yes":  # whose user has no files
        assert found["User"] not in ("root", "") and "StateDirectory" in found
    assert {"MemoryMax", "TasksMax"} <= found.keys()
    assert found["Restart"] == "always"
    assert int(found["TimeoutStopSec"]) > 5


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_rates_the_exposure_of_each_unit_as_low(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name.replace("@", "@devel")
    copy.write_text(re.sub(r"^ExecStart=\S+", f'ExecStart="{sys.executable}"', unit.read_text(), flags=re.MULTILINE))
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout[-200:] + judged.stderr


def test_units_create_the_directories_that_their_processes_use() -> None:
    for unit in UNITS:
        found = settings(unit)
        if "WorkingDirectory" in found:
            assert found["WorkingDirectory"] == f"/var/lib/{found['StateDirectory']}"
    broker = settings(CHECKOUT / "deploy" / "systemd" / "ntppool-broker@.service")
    for env in ("prod", "test", "devel"):
        told = (CHECKOUT / "broker-config" / f"mosquitto.{env}.conf").read_text()
        assert f"\npersistence_location /var/lib/{broker['StateDirectory'].replace('%i', env)}/\n" in told


def test_broker_is_reloaded_after_a_change_of_the_list_that_the_example_settings_name() -> None:
    path, service = map(settings, RELOADING)
    example = (CHECKOUT / "deploy" / "systemd" / "ntppool-monitor.env").read_text()
    assert path["PathChanged"].replace("%i", "prod") == re.search(r"^#CA_CRL_FILE=(.*)$", example, re.MULTILINE)[1]  # type: ignore[index]
    assert service["ExecStart"] == "/usr/bin/systemctl reload ntppool-broker@%i.service"
    assert WRITE_LISTS.endswith(str(Path(path["PathChanged"]).parent))
    for env in ("prod", "test", "devel"):
        told = (CHECKOUT / "broker-config" / f"mosquitto.{env}.conf").read_text()
        assert f"\n#crlfile {path['PathChanged'].replace('%i', env)}\n" in told


@pytest.mark.parametrize(
    "line",
    [
        'u ntppool-monitor - "NTP Pool monitor workers" /var/lib/ntppool-monitor',
        'u ntppool-agent - "NTP Pool monitoring agent" /var/lib/ntppool-agent',
    ],
)
def test_the_users_of_the_units_are_created(line: str) -> None:
    lines = (CHECKOUT / "deploy" / "systemd" / f"{line.split()[1]}.sysusers").read_text().splitlines()
    assert [one for one in lines if not one.startswith("#")] == [line]


def test_broker_may_open_more_files_than_it_accepts_connections() -> None:
    broker = settings(CHECKOUT / "deploy" / "systemd" / "ntppool-broker@.service")
    for env in ("prod", "test", "devel"):
        told = (CHECKOUT / "broker-config" / f"mosquitto.{env}.conf").read_text()
        bounds = [int(number) for number in re.findall(r"^max_connections (\d+)$", told, re.MULTILINE)]
        assert sum(bounds) + 500 < int(broker["LimitNOFILE"])


@pytest.mark.parametrize("unit", [unit for unit in UNITS if "broker" not in unit.name], ids=lambda unit: unit.name)
def test_each_instance_names_its_environment_in_the_command(unit: Path) -> None:
    assert " --env %i " in settings(unit)["ExecStart"]
    assert "DEPLOYMENT_MODE" not in unit.read_text()


def test_broker_may_use_netlink_to_find_the_websocket_interface() -> None:
    """libwebsockets finds the interface with netlink; without an answer, it listens on all addresses. This only
    happens under systemd."""
    broker = next(unit for unit in UNITS if "broker" in unit.name)
    assert set(settings(broker)["RestrictAddressFamilies"].split()) == {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"}


def test_the_example_settings_of_the_public_pages_are_accepted_and_have_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CHECKOUT / "deploy" / "systemd" / "ntppool-web.env").read_text()
    for name, value in re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.MULTILINE):
        assert name in ("DATABASE_DSN", "WEB_ADDRESS", "WEB_PORT", "WEB_TRUSTED_PROXIES", "LOG_LEVEL", "METRICS_PORT")
        monkeypatch.setenv(name, value)
    assert load_settings().database_url().username == "ntppool_web"


def test_the_example_settings_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (CHECKOUT / "deploy" / "systemd" / "ntppool-monitor.env").read_text().splitlines()
    assignments = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    for name in ("JWT_KEY", "JWT_KEY_FILE", "METRICS_PORT", "MQTT_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in assignments:
        monkeypatch.setenv(name, value)
    assert ["DEPLOYMENT_MODE", "prod"] in assignments, "a token made by hand is for the environment of the file"
    loaded = load_settings()
    assert loaded.deployment_mode == "prod"
    assert loaded.database_url().host == "127.0.0.1"
    assert str(loaded.broker_address()) == "mqtt://127.0.0.1:1883"
