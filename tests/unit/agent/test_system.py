"""Test the conventions of systems: files of a service, and commands for people to run."""

from pathlib import Path

import pytest

from agent.system import FREEBSD, LINUX, System, for_environment, system_of
from testbed.paths import CHECKOUT


@pytest.mark.parametrize(
    ("platform", "system"), [("linux", LINUX), ("freebsd13", FREEBSD), ("freebsd14", FREEBSD), ("darwin", LINUX)]
)
def test_each_system_has_its_conventions(platform: str, system: System) -> None:
    assert system_of(platform) is system


def test_commands_name_the_environment() -> None:
    assert for_environment(LINUX.start, "test") == "systemctl start ntppool-agent@test"
    assert for_environment(FREEBSD.install, "test") == (
        'sysrc ntppool_agent_enable=YES ntppool_agent_environments+=" test" && service ntppool_agent start test'
    )


def test_commands_are_those_of_the_script_for_freebsd() -> None:
    script = (CHECKOUT / "deploy" / "freebsd" / "ntppool_agent").read_text()
    assert f': "${{ntppool_agent_state:={FREEBSD.state}}}"' in script
    assert str(FREEBSD.defaults) in script
    for verb in ("start", "restart"):
        assert f"\n{verb}_cmd=" in script


def test_files_of_linux_are_those_of_the_unit() -> None:
    unit = (CHECKOUT / "deploy" / "systemd" / "ntppool-agent@.service").read_text()
    assert f"StateDirectory={LINUX.state.name}\n" in unit
    assert LINUX.state == Path("/var/lib") / LINUX.state.name
    assert str(LINUX.defaults) in unit
