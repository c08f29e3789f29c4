"""Test the renewal child against an API that loses, refuses and breaks answers: a cut at any point leaves a working
agent."""

import base64
import json
import shutil
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.api_client import ApiClient
from agent.renew import Renewal
from agent.renewal_file import Outcome, read_outcome
from agent.replacement import finish_replacement
from agent.state import Api, Broker, StateDirectory, StateFile
from testbed.agent_api import Issuer
from testbed.paths import CHECKOUT
from testbed.recording_api import RecordingApi, Reply, recording_api, refuse, say

NAME = "uspao1-acc1.devel.mon.example"
KEY = "ntpm_a_key_for_tests"
TOKEN = "/monitor/api/token"
CERTIFICATE = "/monitor/api/certificate"


def token(name: str = NAME, *, lifetime: float = 21600.0, age: float = 0.0) -> str:
    """Return an unsigned token."""
    now = time.time() - age
    claims = {"sub": name, "iat": now, "exp": now + lifetime}
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.x"


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def api(issuer: Issuer) -> Iterator[RecordingApi]:
    with recording_api(name=NAME) as made:
        made.keys["earlier"] = KEY
        made.addresses["earlier"] = {"v4": "192.0.2.1"}
        made.overrides[TOKEN] = lambda asked: say(token=token(made.name), expires_on="2099-01-01T00:00:00Z")
        made.overrides[CERTIFICATE] = issuer.sign
        yield made


@pytest.fixture
def directory(tmp_path: Path, api: RecordingApi) -> StateDirectory:
    return with_key(tmp_path, api)


def with_key(base: Path, api: RecordingApi) -> StateDirectory:
    made = StateDirectory(base, "devel")
    made.prepare()
    made.write_file(StateFile(api=Api(url=api.url, key=KEY)))
    return made


def renew(directory: StateDirectory) -> Outcome:
    return Renewal(directory, lambda known: ApiClient(known.url, seconds=5)).run()


def assert_complete(directory: StateDirectory) -> None:
    """Check that a daemon can log in with these files."""
    assert directory.read_state().name == NAME
    directory.read_token()
    directory.check_key()
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(directory.certificate_file, directory.key_file)


def test_first_renewal_brings_everything_and_the_second_nothing(
    api: RecordingApi, directory: StateDirectory, issuer: Issuer
) -> None:
    assert renew(directory).kind == "ok", renew(directory)
    assert_complete(directory)
    assert directory.read_state().broker == Broker(host="127.0.0.1", port=1883)
    key = serialization.load_pem_private_key(directory.key_file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1"
    assert all(b"PRIVATE" not in asked.body for asked in api.asked), "the key never leaves the host"
    for path in directory.path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    before = {path: path.stat().st_mtime_ns for path in directory.path.iterdir() if path.suffix in (".json", ".pem")}
    asked = len(api.asked)
    assert renew(directory).kind == "ok"
    assert [one.path for one in api.asked[asked:]] == ["/monitor/api/config"]
    assert before == {path: path.stat().st_mtime_ns for path in before}, "nothing is replaced without need"


@pytest.mark.parametrize(
    ("lifetime", "age", "due"), [(21600.0, 14000.0, False), (21600.0, 14800.0, True), (21600.0, 30000.0, True)]
)
def test_token_is_renewed_in_its_last_third(
    api: RecordingApi, directory: StateDirectory, lifetime: float, age: float, due: bool
) -> None:
    renew(directory)
    directory.token_file.write_text(token(lifetime=lifetime, age=age))
    before = len(api.to(TOKEN))
    renew(directory)
    assert len(api.to(TOKEN)) - before == due


def test_new_name_brings_new_token_and_certificate(api: RecordingApi, directory: StateDirectory) -> None:
    renew(directory)
    api.name = "deber1-acc1.devel.mon.example"
    assert renew(directory).kind == "ok"
    assert directory.read_state().name == api.name
    assert (len(api.to(TOKEN)), len(api.to(CERTIFICATE))) == (2, 2)


def test_lost_answers_end_in_one_certificate(api: RecordingApi, tmp_path: Path, issuer: Issuer) -> None:
    for lost in range(3):
        directory = with_key(tmp_path / str(lost), api)
        first = len(api.asked)
        api.lose = lambda number, at=first + lost: number == at
        begun = len(issuer.requests)
        assert renew(directory).kind == "unreachable"
        assert renew(directory).kind == "ok"
        assert_complete(directory)
        assert len(set(issuer.requests[begun:])) == 1, "a request is repeated, not replaced"


class _Crash(BaseException):
    pass


def _crashing(replace: Callable[..., Any], count: Iterator[int], at: int) -> Callable[..., Any]:
    def crashing(path: Path, target: Path) -> Any:
        if next(count) == at:
            raise _Crash
        return replace(path, target)

    return crashing


def test_crash_before_every_change_of_a_file_leaves_a_working_agent(
    api: RecordingApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, issuer: Issuer
) -> None:
    renewed = with_key(tmp_path / "renewed", api)
    renew(renewed)
    replace = Path.replace
    for at in range(40):
        directory = StateDirectory(tmp_path / f"crash {at}", "devel")
        shutil.copytree(renewed.path, directory.path)
        directory.token_file.write_text(token(age=15000))
        api.broker = {"host": "127.0.0.1", "port": 2000 + at}
        monkeypatch.setattr("agent.renew._is_due", lambda *times: True)
        count = iter(range(1000))

        monkeypatch.setattr(Path, "replace", _crashing(replace, count, at))
        try:
            renew(directory)
            crashed = False
        except _Crash:
            crashed = True
        monkeypatch.undo()
        finish_replacement(directory)  # as the daemon does when it starts
        assert_complete(directory)
        assert renew(directory).kind == "ok"
        assert_complete(directory)
        assert directory.read_state().broker.port == 2000 + at
        if not crashed:
            assert at > 4
            return
    raise AssertionError("the renewal never ended")


@pytest.mark.parametrize(
    ("path", "reply", "kind", "why"),
    [
        ("/monitor/api/config", refuse(401, "no"), "refused", "run 'ntppool-agent setup'"),
        ("/monitor/api/config", Reply(503), "unreachable", "HTTP 503"),
        ("/monitor/api/config", Reply(302, headers={"Location": "http://127.0.0.1/"}), "unreachable", "redirect"),
        ("/monitor/api/config", Reply(200, b"x" * 300_000), "unreachable", "larger than"),
        ("/monitor/api/config", Reply(200, b"[]"), "failed", "Expected `object`"),
        (TOKEN, refuse(403, "pending: not approved yet"), "waiting", "not approved yet"),
        (TOKEN, say(token="two words", expires_on="2026-01-01T00:00:00Z"), "failed", "token"),
        (CERTIFICATE, say(certificate="nothing"), "failed", "no certificate"),
    ],
)
def test_refusals_and_broken_answers_change_nothing(
    api: RecordingApi, directory: StateDirectory, path: str, reply: Reply, kind: str, why: str
) -> None:
    renew(directory)
    directory.token_file.write_text(token(age=20000))
    if path == CERTIFICATE:
        directory.certificate_file.unlink()
    before = directory.state_file.read_bytes()
    api.overrides[path] = lambda asked: reply
    outcome = renew(directory)
    assert (outcome.kind, why in outcome.text) == (kind, True), outcome
    assert KEY not in outcome.text and directory.state_file.read_bytes() == before


def test_certificate_for_another_key_or_name_is_refused(
    api: RecordingApi, directory: StateDirectory, issuer: Issuer
) -> None:
    renew(directory)
    used = directory.key_file.read_bytes()
    old = say(certificate=directory.certificate_file.read_text())
    directory.certificate_file.write_text("due")
    api.overrides[CERTIFICATE] = lambda asked: old
    assert "not for our key" in renew(directory).text
    assert directory.key_file.read_bytes() == used


def test_pool_without_certificates_and_deleted_monitors(api: RecordingApi, directory: StateDirectory) -> None:
    api.overrides[CERTIFICATE] = lambda asked: refuse(404, "there is none")
    assert renew(directory).kind == "ok" and not directory.certificate_file.exists()
    api.status = "deleted"
    assert renew(directory).text == f"the pool has deleted the monitor {NAME}"


@pytest.mark.parametrize("ahead", [86400.0, -86400.0])
def test_clock_a_day_off_is_said_and_stops_nothing(api: RecordingApi, directory: StateDirectory, ahead: float) -> None:
    renew(directory)
    api.clock_ahead = ahead
    directory.token_file.write_text(token(age=-ahead))  # new by the API's clock
    before = len(api.to(TOKEN))
    outcome = renew(directory)
    assert outcome.kind == "ok" and "clock is 24h" in outcome.clock
    assert len(api.to(TOKEN)) == before, "the API's clock decides what is due"


def test_child_tells_its_outcome_by_a_file(api: RecordingApi, directory: StateDirectory) -> None:
    command = [sys.executable, "-m", "agent.renew", str(directory.path.parent), "devel"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    outcome = read_outcome(directory)
    assert outcome is not None and outcome.kind == "ok"
    assert_complete(directory)
