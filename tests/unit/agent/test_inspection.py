"""Test where the ``status`` command looks, and its findings."""

import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from agent.inspection import inspect
from agent.renewal_file import Outcome, write_outcome
from agent.settings import AgentSettings, places_to_look
from agent.state import (
    Api,
    Broker,
    Fetched,
    Lock,
    Registered,
    State,
    StateDirectory,
    StateFile,
    provision,
    write_token,
)
from agent.status_file import AgentReport, write_report
from runtime.mqtt.tls_files import file_stamp
from schema.messages import Status
from schema.names import IpVersion
from testbed.paths import CHECKOUT

STATE = State(name="a.devel.mon.example", broker=Broker(host="127.0.0.1", port=1))


def set_up(base: Path) -> StateDirectory:
    return provision(base, "devel", STATE, "token")


def write(directory: StateDirectory, **fields: Any) -> None:
    now = datetime.now(UTC)
    status = Status(online=True)
    made = AgentReport(
        name="a", env="devel", pid=1, written=now, started=now, broker="b", connected=True, status=status, **fields
    )
    write_report(directory, made)


def test_state_directory_of_the_systemd_unit_is_inspected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unit = (CHECKOUT / "deploy" / "systemd" / "ntppool-agent@.service").read_text()
    assert "\nStateDirectory=ntppool-agent\n" in unit
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    service = Path("/var/lib/ntppool-agent")
    assert places_to_look(AgentSettings(), home) == [tmp_path / "ntppool-agent", service]
    assert places_to_look(AgentSettings(state_dir=tmp_path), home) == [tmp_path]
    assert places_to_look(AgentSettings(), {**home, "STATE_DIRECTORY": "/x"}) == [Path("/x")]

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert places_to_look(AgentSettings(), {}) == [service], "a user without a home may ask, too"


def test_running_daemon_is_preferred_then_a_directory_that_is_set_up(tmp_path: Path) -> None:
    own, service = tmp_path / "own", tmp_path / "service"
    nothing = inspect([own, service], "devel")
    assert (nothing.path, nothing.set_up, nothing.process) == (str(own / "devel"), False, None)
    running = set_up(service)
    assert inspect([own, service], "devel").path == str(service / "devel")
    set_up(own)
    assert inspect([own, service], "devel").path == str(own / "devel")
    with Lock(running):
        seen = inspect([own, service], "devel")
    assert (seen.path, seen.process, seen.name) == (str(service / "devel"), os.getpid(), "a.devel.mon.example")


def test_other_environments_that_are_set_up_are_named(tmp_path: Path) -> None:
    set_up(tmp_path / "service")
    seen = inspect([tmp_path / "own", tmp_path / "service"], "prod")
    assert (seen.set_up, seen.others) == (False, ("devel",))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("state.json", b"{", "state.json: "),
        ("token", b"", "token: must contain one token"),
        ("status.json", b"{", "status.json: "),
        ("status.json", b"\xff", "status.json: "),
    ],
)
def test_invalid_files_are_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    directory = set_up(tmp_path)
    write(directory)
    assert inspect([tmp_path], "devel").troubles == ()
    (directory.path / name).write_bytes(content)
    seen = inspect([tmp_path], "devel")
    assert [trouble for trouble in seen.troubles if says in trouble], seen
    assert seen.set_up


def test_inaccessible_directory_is_reported_with_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path)
    stat = Path.stat

    def closed(path: Path, **how: bool) -> os.stat_result:
        if "devel" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", closed)
    assert inspect([tmp_path], "devel").closed_by is not None


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"f_flag": os.ST_RDONLY}, "the file system is read-only"),
        ({"f_bavail": 0}, "the disk is full"),
        ({"f_favail": 0}, "the disk is full"),
        ({"f_favail": 0, "f_files": 0}, None),  # reported by file systems without an inode table
        ({}, None),
    ],
)
def test_full_or_read_only_disk_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, int], says: str | None
) -> None:
    set_up(tmp_path)
    good = {"f_flag": 0, "f_bavail": 9, "f_favail": 9, "f_files": 9}
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(**good | changed))
    troubles = inspect([tmp_path], "devel").troubles
    assert [says in trouble for trouble in troubles] == ([True] if says else [])  # type: ignore[operator]  # a string in that case


def test_what_the_api_has_given_is_found(tmp_path: Path) -> None:
    directory = set_up(tmp_path)
    assert (inspect([tmp_path], "devel").api, inspect([tmp_path], "devel").token) == (None, None), "not from an API"
    api = Api(url="https://api.example", key="ntpm_a_key_for_tests")
    protocols: dict[IpVersion, Registered] = {"v4": Registered(ip="192.0.2.1", status="testing")}
    file = directory.read_file()
    directory.write_file(msgspec.structs.replace(file, api=api, protocols=protocols))
    claims = json.dumps({"iat": 0, "exp": 1_800_000_000, "sub": STATE.name}).encode()
    write_token(directory, f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.x")
    outcome = Outcome(at=datetime.now(UTC), kind="refused", text="the key is refused")
    write_outcome(directory, outcome)
    seen = inspect([tmp_path], "devel")
    assert (seen.api, seen.registered, seen.renewal) == (api.url, ("IPv4 192.0.2.1 testing",), outcome)
    assert seen.ends is not None and seen.ends.year == 2027
    assert seen.token is not None and seen.token.endswith("2027-01-15 08:00 UTC")


def test_settings_that_changed_since_the_start_are_noticed(tmp_path: Path) -> None:
    directory, defaults = set_up(tmp_path), tmp_path / "defaults"
    for content in (None, "MONITOR_IPV6=no\n", "MONITOR_IPV6=yes\n"):
        if content is not None:
            write(directory, settings_file=str(defaults), settings_stamp=file_stamp(defaults))
            defaults.write_text(content)
            assert inspect([tmp_path], "devel").settings_changed
        write(directory, settings_file=str(defaults), settings_stamp=file_stamp(defaults))
        assert not inspect([tmp_path], "devel").settings_changed


def test_host_that_waits_for_the_api_has_no_trouble_and_lost_files_are_told(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path, "devel")
    directory.prepare()
    file = StateFile(api=Api(url="https://api.example", key="ntpm_a_key_for_tests"))
    directory.write_file(file)
    seen = inspect([tmp_path], "devel")
    assert (seen.troubles, seen.missing, seen.ends) == ((), (), None)
    named = msgspec.structs.replace(file, name=STATE.name, broker=STATE.broker)
    directory.write_file(named)
    assert inspect([tmp_path], "devel").troubles == (), "the token comes next"
    directory.write_file(msgspec.structs.replace(named, fetched=Fetched(token="a", certificate="b")))
    seen = inspect([tmp_path], "devel")
    assert (seen.troubles, seen.missing) == ((), ("token", "cert.pem", "key.pem"))
