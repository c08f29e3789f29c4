"""Test that neither the list of processes nor a crash shows a secret of the agent."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent import __main__ as command_line
from agent import renew, service
from agent.certificate_request import CertificateFiles
from agent.daemon_settings import DaemonSettings
from agent.renewals import Renewals
from agent.state import Api, StateDirectory, StateFile
from runtime import log

KEY = "a-key-of-another-form"
PRIVATE = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg"


@pytest.fixture
def directory(tmp_path: Path) -> StateDirectory:
    made = StateDirectory(tmp_path, "devel")
    made.prepare()
    made.write_file(StateFile(api=Api(url="https://api.example", key=KEY, registration="0" * 26)))
    return made


def test_arguments_of_openssl_contain_no_key(directory: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(command: list[str], **more: Any) -> Any:
        ran.append(repr((command, more)))
        made = f"-----BEGIN PRIVATE KEY-----\n{PRIVATE}\n" if "genpkey" in command else "a request"
        return SimpleNamespace(returncode=0, stdout=made.encode(), stderr=b"")

    monkeypatch.setattr(subprocess, "run", run)
    assert CertificateFiles(directory).request("a.devel.mon.example") == "a request"
    assert PRIVATE in directory.new_key_file.read_text() and str(directory.new_key_file) in ran[1]
    assert directory.new_key_file.stat().st_mode & 0o777 == 0o600
    assert len(ran) == 2 and PRIVATE not in "".join(ran)


async def test_arguments_and_environment_of_the_renewal_contain_no_secret(
    directory: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[Any, ...]] = []

    async def run(*command: str, **more: Any) -> Any:
        ran.append((command, more))
        return SimpleNamespace(returncode=0, wait=lambda: asyncio.sleep(0))

    monkeypatch.setattr(asyncio, "create_subprocess_exec", run)
    await Renewals(directory, local={"v4": "192.0.2.1"})._run_child(again=True)
    [(command, more)] = ran
    assert command[-2:] == ("192.0.2.1", "--again")
    assert KEY not in repr(command) + repr(more) and "0" * 26 not in repr(command) + repr(more)


def fail(*_: object, **__: object) -> None:
    log.keep_out_of_logs(KEY)
    raise ValueError(f"Invalid header value b'Bearer {KEY}'")


def crash_of_the_renewal(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["renew", str(base), "devel"])
    monkeypatch.setattr(renew.Renewal, "run", fail)
    renew.main()


def crash_of_the_command_line(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["ntppool-agent", "version"])
    monkeypatch.setattr(command_line, "load_settings", fail)
    command_line.main()


def crash_of_the_daemon(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.setattr(service, "_run", fail)
    sys.exit(service.run(DaemonSettings(env="devel", state_base=str(base))))


@pytest.mark.parametrize("crash", [crash_of_the_renewal, crash_of_the_command_line, crash_of_the_daemon])
def test_crash_tells_the_place_and_no_secret(
    crash: Callable[[pytest.MonkeyPatch, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(log, "_kept_out", set())
    with pytest.raises(SystemExit) as ended:
        crash(monkeypatch, tmp_path)
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "ValueError: Invalid header value b'Bearer [secret]'" in said and "in fail" in said
    assert KEY not in said
