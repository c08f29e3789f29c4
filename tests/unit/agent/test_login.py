"""Test the token and related files, which may be replaced while the agent runs."""

import base64
import json
import time
from pathlib import Path

import msgspec
import pytest

from agent.daemon_settings import DaemonSettings
from agent.delivery.spool import Batched
from agent.login import Login
from agent.pipeline import keep
from agent.state import Broker, State, StateDirectory, StateError, provision, write_token

STATE = State(name="a.devel.mon.example", broker=Broker(host="127.0.0.1", port=1))


def token(lifetime: float) -> str:
    claims = json.dumps({"iat": time.time() - 10, "exp": time.time() + lifetime}).encode()
    return f"h.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.s"


def login(tmp_path: Path, lifetime: float = 600) -> tuple[StateDirectory, Login]:
    directory = provision(tmp_path, "devel", STATE, token(lifetime))
    return directory, Login(directory, directory.read_state())


def test_previous_token_is_used_while_the_file_is_missing(tmp_path: Path) -> None:
    directory, made = login(tmp_path)
    first = made.token.read()
    directory.token_file.unlink()
    assert made.token.read() == first
    assert "token: is missing" in str(made.troubles())
    write_token(directory, token(300))
    assert made.token.read() != first
    assert made.troubles() == []


def test_expired_token_is_not_used_while_the_file_is_missing(tmp_path: Path) -> None:
    directory, made = login(tmp_path, lifetime=-1)
    made.token.read()
    directory.token_file.unlink()
    with pytest.raises(StateError, match="token: is missing"):
        made.token.read()


def test_previous_token_is_used_for_the_same_name_only(tmp_path: Path) -> None:
    directory, made = login(tmp_path)
    made.token.read()
    renamed = msgspec.structs.replace(STATE, name="b.devel.mon.example")
    directory.state_file.write_bytes(msgspec.json.encode(renamed))
    directory.token_file.unlink()
    found = made.renewed()
    assert found.state.name == "b.devel.mon.example"
    with pytest.raises(StateError):
        found.token.read()
    directory.state_file.write_bytes(msgspec.json.encode(msgspec.structs.replace(STATE, allow_private_targets=True)))
    found = made.renewed()
    assert found is not made
    assert found.token.read() == made.token.read()


def test_login_is_kept_while_the_files_have_the_same_content(tmp_path: Path) -> None:
    directory, made = login(tmp_path)
    made.tls.context()
    before = made.stamp
    assert made.renewed() is made
    directory.state_file.write_bytes(directory.state_file.read_bytes())
    assert made.stamp != before
    assert made.renewed() is made, "written anew, and the same"


def test_protocols_share_the_disk_space_and_keep_batches_for_three_days(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path, "devel")
    directory.prepare()
    kept = keep(DaemonSettings(env="devel", state_base=str(tmp_path), spool_bytes=40_000), directory)
    now = int(time.time())
    for spool in kept.spools.values():
        for age in (3 * 86_400 - 60, 3 * 86_400 + 60, 0):
            batch = Batched(id=f"{age:026}", results=1, created=now - age, payload=b"x")
            number = spool.reserve()
            spool.admit(number, spool.store(number, batch), 0)
        spool.expire(now)
        assert len(spool) == 3, "they are dropped in their order"
        spool.remove(1)
        spool.expire(now)
        assert (list(spool), spool.counters.dropped_results) == ([3], 1)
        large = Batched(id=f"{1:026}", results=1, created=now, payload=b"x" * 15_000)
        for _ in range(2):
            number = spool.reserve()
            spool.admit(number, spool.store(number, large), now)
        assert spool.bytes <= 20_000
