"""Test the state directory: reading it whatever it contains, and its exclusive use by one agent."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from agent.daemon_settings import DaemonSettings, hand_over, take_over
from agent.files import write_durably
from agent.pipeline import keep
from agent.service import run
from agent.state import (
    Broker,
    Lock,
    State,
    StateDirectory,
    StateError,
    StateUnavailable,
    provision,
    running_process,
    state_base,
    write_token,
)
from testbed.random_inputs import examples

NAME = "nlams1-x.devel.mon.example"
TOKEN = "header.body.very-secret-signature"
STATE = State(name=NAME, broker=Broker(host="127.0.0.1", port=1883), allow_private_targets=True)


def written(tmp_path: Path, content: bytes | dict[str, Any]) -> StateDirectory:
    directory = StateDirectory(tmp_path, "devel")
    directory.prepare()
    directory.state_file.write_bytes(content if isinstance(content, bytes) else msgspec.json.encode(content))
    return directory


def test_provisioned_state_and_token_can_be_read(tmp_path: Path) -> None:
    directory = provision(tmp_path / "new", "devel", STATE, TOKEN)
    assert (directory.read_state(), directory.read_token()) == (STATE, TOKEN)
    modes = [path.stat().st_mode & 0o777 for path in (directory.path, directory.state_file, directory.token_file)]
    assert modes == [0o700, 0o600, 0o600]
    assert sorted(path.name for path in directory.path.iterdir()) == ["state.json", "token"]
    write_token(directory, "another")
    assert directory.read_token() == "another"


def test_file_that_a_crash_has_left_open_to_others_is_closed(tmp_path: Path) -> None:
    (left := tmp_path / "token.tmp").touch()
    left.chmod(0o666)
    write_durably(tmp_path / "token", b"secret")
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600 and not left.exists()


def test_environments_have_their_own_directories(tmp_path: Path) -> None:
    assert StateDirectory(tmp_path, "prod").path != StateDirectory(tmp_path, "test").path


GOOD = {"name": NAME, "broker": {"host": "mqtt.example", "port": 8883, "ca_file": "/etc/hostname"}}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "x"}, "must be <short>.<env>.<domain>"),
        ({"name": "a.prod.mon.example"}, "belongs to prod, not to devel"),
        ({"name": 5}, "Expected `str`, got `int`"),
        ({"nmae": NAME}, "unknown field `nmae`"),
        ({"broker": {"host": "mqtt.example"}}, "plain TCP is allowed on loopback only"),
        ({"broker": {"host": "127.evil.example"}}, "plain TCP is allowed on loopback only"),
        ({"broker": {"host": "", "ca_file": "x"}}, "length >= 1"),
        ({"broker": {"host": "h", "port": 0}}, "int` >= 1"),
        ({"broker": {"host": "h", "ca_file": "missing.pem"}}, "missing.pem: must be a readable file"),
    ],
)
def test_invalid_state_is_refused_with_file_and_reason(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    directory = written(tmp_path, {**GOOD, **change})
    with pytest.raises(StateError, match=why.replace("<", "<").replace("(", "\\(")) as refused:
        directory.read_state()
    assert str(directory.state_file) in str(refused.value)


def test_private_targets_are_allowed_in_devel_only(tmp_path: Path) -> None:
    for env in ("prod", "test"):
        state = msgspec.structs.replace(STATE, name=NAME.replace("devel", env))
        with pytest.raises(StateError, match="allow_private_targets is allowed in devel only"):
            provision(tmp_path, env, state, TOKEN)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["name", "broker", "host", "port", "ca_file", "allow_private_targets"]),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=10,
        ).map(msgspec.json.encode),
    )
)
@examples(150, suppress=[HealthCheck.function_scoped_fixture])
def test_random_content_is_refused_with_a_message(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(StateError, match=r"state\.json"):
        written(tmp_path, content).read_state()


def test_deeply_nested_or_oversized_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError):
        written(tmp_path, b"[" * 60_000).read_state()
    with pytest.raises(StateError, match="larger than"):
        written(tmp_path, b" " * 100_000).read_state()


def test_missing_state_or_token_is_reported(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path, "devel")
    with pytest.raises(StateError, match="has not been set up"):
        directory.read_state()
    with pytest.raises(StateError, match="has no token"):
        directory.read_token()


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe", b"a\0b", b"x" * 8193])
def test_invalid_token_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    directory = provision(tmp_path, "devel", STATE, TOKEN)
    directory.token_file.write_bytes(content)
    with pytest.raises(StateError) as refused:
        directory.read_token()
    assert "words" not in str(refused.value) and "xx" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_token_accessible_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    directory = provision(tmp_path, "devel", STATE, TOKEN)
    directory.token_file.chmod(mode)
    with pytest.raises(StateError, match="must be 0600") as refused:
        directory.read_token()
    assert TOKEN not in str(refused.value)


def test_directory_open_to_others_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "devel").mkdir(mode=0o755)
    StateDirectory(tmp_path, "devel").prepare()
    assert (tmp_path / "devel").stat().st_mode & 0o777 == 0o700


def test_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "devel").write_text("")
    with pytest.raises(StateError, match="must be a writable directory"):
        StateDirectory(tmp_path, "devel").prepare()


def test_certificate_needs_a_key_accessible_to_its_owner_only(tmp_path: Path) -> None:
    state = msgspec.structs.replace(STATE, broker=Broker(host="127.0.0.1", port=1, ca_file="ca.pem"))
    directory = StateDirectory(tmp_path, "devel")
    directory.prepare()
    assert directory.broker_address(state).ca_file == directory.path / "ca.pem"
    assert directory.broker_address(state).cert_file is None
    directory.certificate_file.write_text("")
    assert directory.broker_address(state).cert_file == directory.certificate_file
    with pytest.raises(OSError, match=r"key\.pem: No such file or directory, although cert\.pem exists"):
        directory.check_key()
    directory.key_file.write_text("")
    for mode in (0o644, 0o640, 0o620, 0o604, 0o601):
        directory.key_file.chmod(mode)
        with pytest.raises(PermissionError, match=rf"mode {mode:04o}\); must be 0600"):
            directory.check_key()
    directory.key_file.chmod(0o600)
    directory.check_key()
    assert directory.broker_address(state).key_file == directory.key_file


def test_two_agents_cannot_use_the_same_directory(tmp_path: Path) -> None:
    directory = provision(tmp_path, "devel", STATE, TOKEN)
    assert running_process(directory) is None
    with Lock(directory):
        assert running_process(directory) == os.getpid()
        with pytest.raises(StateError, match=f"process {os.getpid()}\\) is running"), Lock(directory):
            pass
    assert running_process(directory) is None
    with Lock(directory):
        pass


def test_state_directory_is_chosen_in_order_of_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/joe"))
    everything = {"MONITOR_STATE_DIR": "/own", "STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_CONFIG_HOME": "/xdg"}
    assert state_base(Path("/given"), everything) == Path("/given")
    assert state_base(None, everything) == Path("/own")
    del everything["MONITOR_STATE_DIR"]
    assert state_base(None, everything) == Path("/var/lib/a")
    del everything["STATE_DIRECTORY"]
    assert state_base(None, everything) == Path("/xdg/ntppool-agent")
    assert state_base(None, {}) == Path("/home/joe/.config/ntppool-agent")


def test_settings_are_handed_over_to_the_daemon() -> None:
    made = DaemonSettings(env="devel", state_base="/x", protocols=("v6",), once=True)
    descriptor = hand_over(made)
    assert os.get_inheritable(descriptor)
    assert take_over(descriptor) == made
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize(
    ("number", "passes"),
    [
        (errno.EROFS, True),
        (errno.ENOSPC, True),
        (errno.EDQUOT, True),
        (errno.EIO, True),
        (errno.EMFILE, True),
        (errno.ENFILE, True),
        (errno.ENOMEM, True),
        (errno.ESTALE, True),
        (errno.EACCES, False),
        (errno.ENOTDIR, False),
        (errno.ELOOP, False),
    ],
)
def test_temporary_errors_are_not_treated_as_wrong_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passes: bool
) -> None:
    """After exit status 2, systemd would not start the agent again."""
    directory = provision(tmp_path, "devel", STATE, TOKEN)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(Path, "mkdir", fail)
    monkeypatch.setattr(os, "open", fail)
    monkeypatch.setattr("agent.service.set_up_logging", lambda level: None)
    told = DaemonSettings(env="devel", state_base=str(tmp_path))
    actions: list[Callable[[], object]] = [
        directory.read_state,
        directory.prepare,
        Lock(directory).__enter__,
        lambda: keep(told, directory),
    ]
    for action in actions:
        with pytest.raises(StateError, match=os.strerror(number)) as raised:
            action()
        assert isinstance(raised.value, StateUnavailable) is passes
    assert run(told) == (1 if passes else 2)


@pytest.mark.parametrize("key", ["short", "two words", "ntpm_line\n", "ntpm_é_key", ""])
def test_key_that_no_header_can_carry_is_refused_without_quoting_it(tmp_path: Path, key: str) -> None:
    directory = written(tmp_path, {"api": {"url": "https://api.example", "key": key}})
    with pytest.raises(StateError) as refused:
        directory.read_file()
    assert not key or key not in str(refused.value)
