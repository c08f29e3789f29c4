"""The systemd units: systemd understands them, they start commands that exist, and they give away nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.settings import load_settings

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
OURS = {"ntppool-monitor": "ops", "ntppool-agent": "agent"}
CLOSED = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "RestrictNamespaces": "yes",
    "UMask": "0077",
}


def settings(unit: Path) -> dict[str, str]:
    """The last value of each setting."""
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))


def test_there_is_one_for_each_process() -> None:
    services = ("agent", "broker", "ingest", "scorer", "selector")
    assert [unit.name for unit in UNITS] == [f"ntppool-{service}@.service" for service in services]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_it_reloads_on_a_host_without_procps(unit: Path) -> None:
    assert "/kill" not in settings(unit).get("ExecReload", "")


def test_systemd_understands_all_of_them(tmp_path: Path) -> None:
    for unit in UNITS:
        # Only the program's path differs from an installed system.
        text = re.sub(r"^ExecStart=\S+", f'ExecStart="{sys.executable}"', unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name.replace("@", "@devel")).write_text(text)
    names = sorted(str(path) for path in tmp_path.iterdir())
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, timeout=60, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.parametrize("unit", [unit for unit in UNITS if "broker" not in unit.name], ids=lambda unit: unit.name)
def test_the_command_exists(unit: Path) -> None:
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
def test_each_gives_away_nothing_has_bounds_and_comes_back(unit: Path) -> None:
    found = settings(unit)
    assert {name: found[name] for name in CLOSED} == CLOSED
    assert found["User"] not in ("root", "")
    assert {"MemoryMax", "TasksMax", "StateDirectory"} <= found.keys()
    assert found["Restart"] == "always"
    assert int(found["TimeoutStopSec"]) > 5
    if "broker" not in unit.name:
        assert found["RestartPreventExitStatus"] == "2"


@pytest.mark.parametrize("unit", [unit for unit in UNITS if "broker" not in unit.name], ids=lambda unit: unit.name)
def test_each_instance_says_its_environment_itself(unit: Path) -> None:
    assert " --env %i " in settings(unit)["ExecStart"]
    assert "DEPLOYMENT_MODE" not in unit.read_text()


def test_the_broker_may_look_for_the_interface_that_websockets_listen_on() -> None:
    """libwebsockets asks netlink for it, and listens on all addresses when nobody answers. Seen under systemd only."""
    broker = next(unit for unit in UNITS if "broker" in unit.name)
    assert set(settings(broker)["RestrictAddressFamilies"].split()) == {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"}


def test_the_example_of_settings_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (ROOT / "deploy" / "systemd" / "ntppool-monitor.env").read_text().splitlines()
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
