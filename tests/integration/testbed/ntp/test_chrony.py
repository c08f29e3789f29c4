"""Test the private chronyd: it answers, agrees with this machine's clock, and ends."""

import os
import pwd
from pathlib import Path

import pytest

from testbed.fixtures.ntp import quick_sample
from testbed.ntp.chrony import ChronyError, chronyd, find_chronyd


@pytest.mark.parametrize(("address", "stratum"), [("127.0.0.1", 3), ("127.79.1.1", 8)])
def test_serves_the_clock_of_this_machine_and_ends(address: str, stratum: int) -> None:
    with chronyd(address, stratum=stratum) as server:
        stats = quick_sample(server.address, server.port)
        assert (stats.stratum, stats.leap, stats.mode) == (stratum, 0, 4)
        assert stats.offset == pytest.approx(0, abs=0.006)
        assert Path(f"/proc/{server.pid}").exists()
    assert not Path(f"/proc/{server.pid}").exists()


def test_runs_for_a_user_without_a_passwd_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.setattr(pwd, "getpwuid", none)
    with chronyd() as server:
        assert quick_sample(server.address, server.port).leap == 0


def test_sets_no_clock_and_accepts_no_commands() -> None:
    with chronyd("127.79.1.2") as server:
        command = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
        configuration = Path(command[command.index("-f") + 1]).read_text().splitlines()
    assert "-x" in command
    assert {"cmdport 0", "bindcmdaddress /", "bindaddress 127.79.1.2"} <= set(configuration)


def test_chronyd_is_found_outside_the_path_of_an_ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    assert os.access(find_chronyd(), os.X_OK)


def test_error_message_of_chronyd_is_reported_if_it_cannot_start() -> None:
    reason = r"(?s)on 127\.0\.0\.1 port \d+: .*(Could not parse|Invalid value in) local directive"
    with pytest.raises(ChronyError, match=reason), chronyd(stratum=99):
        pass
