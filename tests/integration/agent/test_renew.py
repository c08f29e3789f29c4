"""Test the renewal child against an API that loses, refuses and breaks answers: a cut at any point leaves a working
agent."""

import base64
import errno
import json
import os
import shutil
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from agent.api_client import ApiClient
from agent.certificate import is_for
from agent.renew import Renewal
from agent.renewal_file import Outcome, read_outcome
from agent.replacement import finish_replacement
from agent.setup import stored_with
from agent.state import Api, Broker, StateDirectory, StateError, StateFile
from runtime.mqtt.token_life import life_of
from testbed.agent_api import Issuer
from testbed.paths import CHECKOUT
from testbed.random_inputs import examples
from testbed.recording_api import RecordingApi, Reply, recording_api, refuse, say
from testbed.tls import LocalCa

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


@pytest.mark.parametrize(("short", "due_in"), [("token", 40.0), ("certificate", 100.0)])
def test_outcome_tells_when_the_first_of_both_is_due(
    api: RecordingApi, directory: StateDirectory, issuer: Issuer, short: str, due_in: float
) -> None:
    if short == "token":
        api.overrides[TOKEN] = lambda asked: say(token=token(lifetime=60), expires_on="2099-01-01T00:00:00Z")
    else:
        issuer.lifetime = timedelta(minutes=4)  # and it begins a minute earlier
    made = renew(directory)
    assert made.due_in is not None and abs(made.due_in - due_in) < 10, made
    api.overrides["/monitor/api/config"] = lambda asked: refuse(503, "away")
    away = renew(directory)
    assert (away.kind, away.due_in) == ("unreachable", None)
    assert away.life is not None and abs(away.life - {"token": 60.0, "certificate": 240.0}[short]) < 1


def test_certificate_is_renewed_in_its_last_third(
    api: RecordingApi, directory: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew(directory)
    for age, due in ((0.66, False), (0.67, True), (1.5, True)):
        begins = datetime.now(UTC) - age * timedelta(days=90)
        times = (begins, begins + timedelta(days=90))
        monkeypatch.setattr("agent.renew.validity", lambda path, times=times: times)
        before = len(api.to(CERTIFICATE))
        assert renew(directory).kind == "ok"
        assert len(api.to(CERTIFICATE)) - before == due, age


def test_key_that_setup_writes_meanwhile_stays_as_setup_wrote_it(api: RecordingApi, directory: StateDirectory) -> None:
    written = StateFile(api=Api(url=api.url, key="ntpm_another_key"), name="deber1-acc1.devel.mon.example")

    def set_up_now(asked: object) -> Reply:
        directory.write_file(written)
        return say(token=token(), expires_on="2099-01-01T00:00:00Z")

    api.overrides[TOKEN] = set_up_now
    renew(directory)
    assert directory.read_file() == written


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
        ("/monitor/api/config", refuse(401, "no"), "refused", "setup' for a new one"),
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


def asked_tags(api: RecordingApi) -> list[str | None]:
    return [asked.headers.get("if-none-match") for asked in api.to("/monitor/api/config")]


def test_unchanged_configuration_is_not_sent_again(api: RecordingApi, directory: StateDirectory) -> None:
    api.broker = {"host": "broker.example", "port": 8883, "ca": LocalCa().certificate}
    assert renew(directory).kind == "ok" and renew(directory).kind == "ok"
    first, second = asked_tags(api)
    assert first is None and second is not None
    before = directory.state_file.read_bytes()
    renew(directory)
    assert directory.state_file.read_bytes() == before
    # A change on the pool's side has another tag; and it is followed even if nothing else is due.
    api.broker = {"host": "broker.example", "port": 8884, "ca": LocalCa().certificate}
    assert renew(directory).kind == "ok" and directory.read_state().broker.port == 8884
    assert directory.broker_ca_file.read_text() == api.broker["ca"]


def remove_ca(directory: StateDirectory) -> None:
    directory.broker_ca_file.unlink()


def damage_ca(directory: StateDirectory) -> None:
    directory.broker_ca_file.write_text("x")


def edit_broker(directory: StateDirectory) -> None:
    directory.state_file.write_text(directory.state_file.read_text().replace("broker.example", "other.example"))


def set_up_again(directory: StateDirectory) -> None:
    file = directory.read_file()
    assert file.api is not None
    directory.write_file(stored_with(file, file.api))


@pytest.mark.parametrize(
    "change", [remove_ca, damage_ca, edit_broker, set_up_again], ids=lambda change: change.__name__
)
def test_configuration_that_is_not_as_it_was_stored_is_fetched_whole(
    api: RecordingApi, directory: StateDirectory, change: Callable[[StateDirectory], None]
) -> None:
    api.broker = {"host": "broker.example", "port": 8883, "ca": LocalCa().certificate}
    renew(directory)
    change(directory)
    assert renew(directory).kind == "ok"
    assert asked_tags(api) == [None, None]
    assert directory.read_state().broker.host == "broker.example"
    assert directory.broker_ca_file.read_text() == api.broker["ca"]


@pytest.mark.parametrize("tag", ["no quotes", '"a\x01b"', '"' + "x" * 300 + '"', ""])
def test_malformed_tag_is_never_sent_back(api: RecordingApi, directory: StateDirectory, tag: str) -> None:
    api.tag = tag
    assert renew(directory).kind == "ok" and renew(directory).kind == "ok"
    assert asked_tags(api) == [None, None]


def test_answer_that_nothing_changed_without_a_question_is_refused(
    api: RecordingApi, directory: StateDirectory
) -> None:
    api.overrides["/monitor/api/config"] = lambda asked: Reply(304)
    assert renew(directory).kind == "failed" and directory.read_file().name is None


def test_new_key_brings_new_token_and_certificate(api: RecordingApi, directory: StateDirectory, issuer: Issuer) -> None:
    """The former ones may have been revoked with the former key."""
    renew(directory)
    api.keys["second"] = "ntpm_the_second_key"
    directory.write_file(stored_with(directory.read_file(), Api(url=api.url, key="ntpm_the_second_key")))
    assert renew(directory).kind == "ok" and renew(directory).kind == "ok"
    assert (len(api.to(TOKEN)), len(set(issuer.requests))) == (2, 2)
    assert "ntpm_the_second_key" not in directory.state_file.read_text().replace('"key": "ntpm_the_second_key"', "")


def test_refusal_of_the_broker_brings_new_token_and_certificate(
    api: RecordingApi, directory: StateDirectory, issuer: Issuer
) -> None:
    renew(directory)
    assert Renewal(directory, lambda known: ApiClient(known.url, seconds=5), again=True).run().kind == "ok"
    assert (len(api.to(TOKEN)), len(set(issuer.requests))) == (2, 2)
    assert_complete(directory)


def test_moved_broker_is_followed_while_no_certificate_can_be_had(api: RecordingApi, directory: StateDirectory) -> None:
    renew(directory)
    directory.certificate_file.write_text("due")
    api.broker = {"host": "127.0.0.1", "port": 1999}
    for reply in (Reply(503), refuse(403, "the CA is closed today")):
        api.overrides[CERTIFICATE] = lambda asked, reply=reply: reply
        assert renew(directory).kind in ("unreachable", "waiting")
        assert directory.read_state().broker.port == 1999


def test_new_name_is_taken_up_only_with_its_token_and_certificate(
    api: RecordingApi, directory: StateDirectory, issuer: Issuer
) -> None:
    renew(directory)
    former = {path: path.read_bytes() for path in (directory.token_file, directory.certificate_file)}
    api.name = "deber1-acc1.devel.mon.example"
    for path in (TOKEN, CERTIFICATE):
        usual, api.overrides[path] = api.overrides[path], lambda asked: Reply(503)
        assert renew(directory).kind == "unreachable"
        assert directory.read_state().name == NAME and former == {file: file.read_bytes() for file in former}
        api.overrides[path] = usual
    assert renew(directory).kind == "ok" and directory.read_state().name == api.name
    assert is_for(directory.certificate_file.read_text(), api.name)


def test_broker_that_would_keep_the_daemon_from_starting_is_not_stored(
    api: RecordingApi, directory: StateDirectory
) -> None:
    renew(directory)
    before = directory.state_file.read_bytes()
    api.broker = {"host": "broker.example", "port": 8883}
    outcome = renew(directory)
    assert (outcome.kind, "plain TCP to broker.example is not allowed" in outcome.text) == ("failed", True)
    assert directory.state_file.read_bytes() == before and directory.read_state()


def test_request_that_the_api_does_not_accept_is_replaced(
    api: RecordingApi, directory: StateDirectory, issuer: Issuer
) -> None:
    api.overrides[CERTIFICATE] = lambda asked: refuse(400, "this is no request")
    assert renew(directory).kind == "waiting"
    refused = api.to(CERTIFICATE)[-1].body
    api.overrides[CERTIFICATE] = issuer.sign
    assert renew(directory).kind == "ok" and issuer.requests != [refused]


def test_longest_name_gets_one_certificate(api: RecordingApi, directory: StateDirectory, issuer: Issuer) -> None:
    api.name = ".".join(["a" * 60, "devel", *["b" * 60] * 3])
    assert renew(directory).kind == "ok" and renew(directory).kind == "ok"
    assert len(issuer.requests) == 1


def test_full_disk_is_said_and_leaves_what_there_was(
    api: RecordingApi, directory: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew(directory)
    directory.token_file.write_text(token(age=20000))
    before = {path: path.read_bytes() for path in directory.path.iterdir() if path.suffix in (".json", ".pem", "")}

    def full(path: Path, *parts: bytes, durable: bool = True) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("agent.files._replace", full)
    outcome = renew(directory)
    assert (outcome.kind, "No space left on device" in outcome.text) == ("failed", True)
    assert before == {path: path.read_bytes() for path in before}


def test_two_renewals_at_once_make_one_request(api: RecordingApi, directory: StateDirectory, issuer: Issuer) -> None:
    with ThreadPoolExecutor(2) as both:
        outcomes = list(both.map(lambda number: renew(directory).kind, range(2)))
    assert outcomes == ["ok", "ok"]
    assert (len(api.to(TOKEN)), len(set(issuer.requests))) == (1, 1)
    assert_complete(directory)


def test_child_connects_from_the_address_that_it_is_given(api: RecordingApi, directory: StateDirectory) -> None:
    directory.write_file(StateFile(api=Api(url=api.url.replace("localhost", "127.0.0.1"), key=KEY)))
    command = [sys.executable, "-m", "agent.renew", str(directory.path.parent), "devel", "--local", "127.0.0.77"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {asked.peer for asked in api.asked} == {"127.0.0.77"}


def test_secret_that_the_api_repeats_stays_out_of_the_outcome(api: RecordingApi, directory: StateDirectory) -> None:
    api.overrides["/monitor/api/config"] = lambda asked: refuse(418, f"what is {asked.headers['authorization']}?")
    outcome = renew(directory)
    assert outcome.kind == "failed" and "what is Bearer" in outcome.text and KEY not in outcome.text
    del api.overrides["/monitor/api/config"]
    api.overrides[TOKEN] = lambda asked: say(token="a-token-of-another-form", expires_on="2099-01-01T00:00:00Z")
    api.overrides[CERTIFICATE] = lambda asked: refuse(403, "not with a-token-of-another-form")
    outcome = renew(directory)
    assert outcome.kind == "waiting" and outcome.text.endswith("not with [secret]"), "nor its new token"


class Trouble(NamedTuple):
    """Something that happens to the API or the host before a renewal."""

    what: str
    happens: Callable[[RecordingApi, StateDirectory, Issuer], object]


def answering(path: str, reply: Reply) -> Trouble:
    return Trouble(f"{path} {reply.status}", lambda api, *_: api.overrides.update({path: lambda asked: reply}))


def losing(answer: int) -> Trouble:
    def happens(api: RecordingApi, *_: object) -> None:
        first = len(api.asked)
        api.lose = lambda number: number == first + answer

    return Trouble(f"answer {answer} is lost", happens)


def new_key(api: RecordingApi, directory: StateDirectory, issuer: Issuer) -> None:
    file, key = directory.read_file(), f"ntpm_key_number_{len(api.keys)}"
    assert file.api is not None
    api.refused_keys.add(file.api.key)
    api.keys[key] = key
    directory.write_file(stored_with(file, Api(url=file.api.url, key=key)))


def again_due(api: RecordingApi, directory: StateDirectory, issuer: Issuer) -> None:
    for path in (directory.token_file, directory.certificate_file):
        path.unlink(missing_ok=True)


CONFIG = "/monitor/api/config"
TROUBLES = [
    *(answering(path, Reply(503)) for path in (CONFIG, TOKEN, CERTIFICATE)),
    *(answering(path, refuse(403, "not today")) for path in (CONFIG, TOKEN, CERTIFICATE)),
    answering(CERTIFICATE, refuse(400, "no request")),
    *map(losing, range(3)),
    Trouble("renamed", lambda api, *_: setattr(api, "name", "deber1-acc1.devel.mon.example")),
    Trouble("named as before", lambda api, *_: setattr(api, "name", NAME)),
    Trouble("broker moved", lambda api, *_: api.broker.update(port=api.broker["port"] + 1)),
    Trouble("broker without a CA", lambda api, *_: api.broker.update(host="broker.example")),
    Trouble("deleted", lambda api, *_: setattr(api, "status", "deleted")),
    Trouble("clock", lambda api, *_: setattr(api, "clock_ahead", 86400.0 - api.clock_ahead)),
    Trouble("new key", new_key),
    Trouble("files removed", again_due),
]


@given(st.lists(st.lists(st.sampled_from(TROUBLES), max_size=3), min_size=1, max_size=5))
@examples(15, thorough=150)
def test_whatever_happens_leaves_a_daemon_that_can_log_in_and_ends_as_the_api_says(
    tmp_path_factory: pytest.TempPathFactory, days: list[list[Trouble]]
) -> None:
    issuer = Issuer()
    with recording_api(name=NAME) as api:
        api.keys["earlier"] = KEY
        api.addresses["earlier"] = {"v4": "192.0.2.1"}
        directory = with_key(tmp_path_factory.mktemp("renewed"), api)

        def mend() -> None:
            api.lose, api.status, api.broker["host"] = (lambda number: False), "testing", "127.0.0.1"
            api.overrides.clear()
            api.overrides[TOKEN] = lambda asked: say(
                token=token(api.name, age=-api.clock_ahead), expires_on="2099-01-01T00:00:00Z"
            )
            api.overrides[CERTIFICATE] = issuer.sign

        for day in days:
            mend()
            for trouble in day:
                trouble.happens(api, directory, issuer)
            renew(directory)
            try:
                name = directory.read_state().name
                held = life_of(directory.read_token())
            except StateError:
                continue  # it has not got so far yet, or its files were removed: the daemon waits
            assert held is not None and held.subject == name, "the token is for the name that the daemon uses"
            if directory.certificate_file.exists():
                assert is_for(directory.certificate_file.read_text(), name)
        mend()
        assert renew(directory).kind == "ok"
        assert directory.read_state().name == api.name and directory.read_state().broker.port == api.broker["port"]
        asked = len(api.asked)
        assert renew(directory).kind == "ok" and len(api.asked) == asked + 1, "it has come to rest"
        assert is_for(directory.certificate_file.read_text(), api.name)
