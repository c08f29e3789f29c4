"""Test the private chronyd: it answers, agrees with this machine's clock, and ends."""

import os
import pwd
from pathlib import Path

import pytest

from testbed.fixtures.ntp import quick_sample
from testbed.ntp.chrony import ChronyError, chronyd, find_chronyd


@pytest.mark.parametrize(("address", "stratum"), [("127.0.0.1", 3), ("127.79.1.1", 8)])
def test_it_serves_this_machines_clock_and_ends(address: str, stratum: int) -> None:
    with chronyd(address, stratum=stratum) as server:
        stats = quick_sample(server.address, server.port)
        assert (stats.stratum, stats.leap, stats.mode) == (stratum, 0, 4)
        assert stats.offset == pytest.approx(0, abs=0.006)
        assert Path(f"/proc/{server.pid}").exists()
    assert not Path(f"/proc/{server.pid}").exists()


def test_it_runs_for_a_user_without_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.setattr(pwd, "getpwuid", none)
    with chronyd() as server:
        assert quick_sample(server.address, server.port).leap == 0


def test_it_sets_no_clock_and_takes_no_commands() -> None:
    with chronyd("127.79.1.2") as server:
        command = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
        configuration = Path(command[command.index("-f") + 1]).read_text().splitlines()
    assert "-x" in command
    assert {"cmdport 0", "bindcmdaddress /", "bindaddress 127.79.1.2"} <= set(configuration)


def test_it_is_found_where_a_users_path_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    assert os.access(find_chronyd(), os.X_OK)


def test_what_chronyd_says_is_passed_on_when_it_cannot_start() -> None:
    reason = r"(?s)on 127\.0\.0\.1 port \d+: .*(Could not parse|Invalid value in) local directive"
    with pytest.raises(ChronyError, match=reason), chronyd(stratum=99):
        pass
