"""Test that commands to run are named with the options that lead to the same agent."""

from pathlib import Path

import pytest

from agent.hints import command, complete
from agent.state import SERVICE_STATE, StateDirectory
from schema.names import Environment

HOME = {"XDG_CONFIG_HOME": "/home/a/.config"}


@pytest.mark.parametrize(
    ("base", "env", "named"),
    [
        (SERVICE_STATE, "prod", "'ntppool-agent setup'"),
        (SERVICE_STATE, "test", "'ntppool-agent --env test setup'"),
        (Path("/home/a/.config/ntppool-agent"), "prod", "'ntppool-agent setup'"),
        (Path("/srv/a"), "devel", "'ntppool-agent --env devel --state-dir /srv/a setup'"),
    ],
)
def test_command_leads_to_the_same_agent(base: Path, env: Environment, named: str) -> None:
    assert command(StateDirectory(base, env), "setup", HOME) == named


def test_commands_in_a_text_get_the_options_once() -> None:
    directory = StateDirectory(SERVICE_STATE, "test")
    text = "refused: run 'ntppool-agent setup', then 'ntppool-agent --env x status'"
    done = "refused: run 'ntppool-agent --env test setup', then 'ntppool-agent --env x status'"
    assert complete(text, directory) == done == complete(done, directory)
    assert complete("'ntppool-agent setup'", StateDirectory(Path("/a\\1"), "prod")).count("/a\\1") == 1
