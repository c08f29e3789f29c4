"""Test ``setup`` against an API that loses answers, breaks them, or refuses: the host gets one key, or a sentence."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import pty
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.api_client import ApiClient, ApiUnreachable
from agent.setup import Pace, Setup, SetupFailed, Wanted
from agent.state import Api, Broker, State, StateDirectory, StateError, StateFile, provision
from runtime.log import without_secrets
from schema.names import IpVersion
from testbed.paths import CHECKOUT
from testbed.recording_api import CONFIRM, Asked, RecordingApi, Reply, recording_api, refuse, say
from testbed.waiting import block_until

REGISTRATION = "/monitor/api/registration"
FAST = Pace(first=0.01, poll=0.01, retry=0.01)


class Client(ApiClient):
    """A client that resolves ``localhost`` to both protocols, which not every machine does."""

    def resolve(self, family: IpVersion | None = None) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        if self.host != "localhost":
            return super().resolve(family)
        kind, host = (socket.AF_INET6, "::1") if family == "v6" else (socket.AF_INET, "127.0.0.1")
        return [(kind, socket.SOCK_STREAM, 0, "", (host, self.port))]


@pytest.fixture
def api() -> Iterator[RecordingApi]:
    with recording_api() as made:
        yield made


@pytest.fixture
def directory(tmp_path: Path) -> StateDirectory:
    made = StateDirectory(tmp_path, "devel")
    made.prepare()
    return made


def set_up(directory: StateDirectory, url: str, *, account: str = "", protocols: Any = ("v4", "v6")) -> list[str]:
    """Run ``setup`` here; return the lines it shows."""
    said: list[str] = []
    Setup(directory, Client(url), Wanted("host.example", account, protocols), said.append, FAST).run()
    return said


def key_of(directory: StateDirectory) -> str:
    api = directory.read_file().api
    assert api is not None
    return api.key


def ids(api: RecordingApi) -> set[str]:
    return {asked.headers["registration-id"] for asked in api.to(REGISTRATION)}


def test_both_addresses_are_shown_to_the_api_and_the_key_is_stored(
    api: RecordingApi, directory: StateDirectory
) -> None:
    said = set_up(directory, api.url, account="acc1")
    first, second, *_ = api.to(REGISTRATION)
    assert (first.peer, second.peer) == ("127.0.0.1", "::1")
    assert first.form == {"hostname": "host.example", "a": "acc1", "env": "devel"} and first.key is None
    assert first.headers["accept"] == "application/json, text/plain"
    assert len(ids(api)) == 1
    assert [key_of(directory)] == list(api.keys.values())
    assert any(CONFIRM in line for line in said)
    assert "IPv4 127.0.0.1: testing" in said and "IPv6 ::1: testing" in said
    assert "systemctl enable --now ntppool-agent@devel" in said[-1]
    assert not directory.registration_file.exists()
    assert stat.S_IMODE(directory.state_file.stat().st_mode) == 0o600
    secret = key_of(directory)
    assert secret not in "\n".join(said) and secret not in repr(directory.read_file())
    assert ids(api).isdisjoint("\n".join(said).split())


def test_every_lost_answer_leaves_one_key(api: RecordingApi, directory: StateDirectory) -> None:
    set_up(directory, api.url)
    usual = len(api.asked)
    for lost in itertools.chain.from_iterable(itertools.combinations(range(usual), count) for count in (1, 2)):
        fresh = StateDirectory(directory.path / "-".join(map(str, lost)), "devel")
        fresh.prepare()
        with recording_api() as other:
            other.lose = lambda number, lost=lost: number in lost
            set_up(fresh, other.url)
            assert [key_of(fresh)] == list(other.keys.values()), lost
            assert len(ids(other)) == 1


def test_run_again_after_an_interruption_at_any_request_goes_on(api: RecordingApi, directory: StateDirectory) -> None:
    """As ``kill -9`` at the time of each request, before and after the API has acted."""

    class Killed(BaseException):
        pass

    for interrupted in range(5):
        fresh = StateDirectory(directory.path / str(interrupted), "devel")
        fresh.prepare()
        with recording_api() as other:
            client = Client(other.url)
            ask, count = client.request, itertools.count()

            def request(
                *arguments: Any,
                ask: Callable[..., Any] = ask,
                count: Iterator[int] = count,
                at: int = interrupted,
                **named: Any,
            ) -> Any:
                answer = ask(*arguments, **named)
                if next(count) == at:
                    raise Killed
                return answer

            client.request = request  # type: ignore[method-assign]
            try:
                Setup(fresh, client, Wanted("host.example", "", ("v4", "v6")), lambda line: None, FAST).run()
            except Killed:
                pending = fresh.registration_file.exists()
                set_up(fresh, other.url)
                assert not pending or len(ids(other)) == 1, "a registration that was begun is gone on with"
            assert key_of(fresh) in other.keys.values()
            assert not fresh.registration_file.exists()


def test_refusal_ends_the_registration_unless_there_were_too_many_requests(
    api: RecordingApi, directory: StateDirectory
) -> None:
    for status, goes_on in ((429, True), (403, False)):
        api.overrides[REGISTRATION] = lambda asked, status=status: refuse(status, "not now")
        with pytest.raises(SetupFailed, match="not now"):
            set_up(directory, api.url)
        refused = api.asked[-1].headers["registration-id"]
        del api.overrides[REGISTRATION]
        set_up(directory, api.url)
        assert (api.to(REGISTRATION)[-1].headers["registration-id"] == refused) is goes_on


def test_key_that_could_not_be_stored_is_handed_out_again(
    api: RecordingApi, directory: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("agent.state.write_durably", full)
        with pytest.raises(StateError, match="No space left"):
            set_up(directory, api.url)
    assert "going on with the registration" in set_up(directory, api.url)[0]
    assert len(ids(api)) == 1 and api.keys == {ids(api).pop(): key_of(directory)}


def test_run_after_the_key_was_stored_but_not_the_end_keeps_it(api: RecordingApi, directory: StateDirectory) -> None:
    set_up(directory, api.url)
    key, number = key_of(directory), ids(api).pop()
    # The registration is forgotten last; as if the host had crashed before that.
    directory.registration_file.write_text(
        json.dumps({"id": number, "url": api.url, "hostname": "host.example", "account": "", "started": time.time()})
    )
    api.over.add(number)
    set_up(directory, api.url)
    assert key_of(directory) == key and ids(api) == {number}


def test_registration_that_is_over_says_so_and_the_next_run_makes_a_new_one(
    api: RecordingApi, directory: StateDirectory
) -> None:
    api.overrides[REGISTRATION] = lambda asked: say(URL=CONFIRM, Status="completed")
    with pytest.raises(SetupFailed, match="run setup again"):
        set_up(directory, api.url)
    del api.overrides[REGISTRATION]
    set_up(directory, api.url)
    assert len(ids(api)) == 2


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (refuse(403, "this account may not register monitors\x1b[2J"), r"may not register monitors\x1b"),
        (refuse(200, "expired"), "the pool says: expired"),
        (Reply(404, b"{}"), "HTTP 404|the pool says: {}"),
        (Reply(200, b"{1"), "is not JSON"),
        (Reply(200, b'{"Status": "accepted", "APIToken": "a\\nb-secret"}'), "APIToken"),
    ],
)
def test_refusals_and_broken_answers_end_with_a_sentence(
    api: RecordingApi, directory: StateDirectory, reply: Reply, why: str
) -> None:
    api.overrides[REGISTRATION] = lambda asked: reply
    with pytest.raises(SetupFailed) as failed:
        set_up(directory, api.url)
    assert any(part in str(failed.value) for part in why.split("|"))
    assert "secret" not in str(failed.value) and not directory.state_file.exists()


def test_secret_that_the_api_repeats_is_not_shown(api: RecordingApi, directory: StateDirectory) -> None:
    api.overrides[REGISTRATION] = lambda asked: refuse(403, f"{asked.headers['registration-id']} is not welcome")
    with pytest.raises(SetupFailed, match="is not welcome") as failed:
        set_up(directory, api.url)
    assert not any(one in str(failed.value) for one in ids(api))
    former = "a-key-of-another-form"
    api.keys["earlier"] = former
    directory.write_file(StateFile(api=Api(url=api.url, key=former)))
    api.overrides[REGISTRATION] = lambda asked: refuse(403, f"{asked.key} is not welcome")
    with pytest.raises(SetupFailed, match=r"\[secret\] is not welcome"):
        set_up(directory, api.url)
    api.overrides[REGISTRATION] = lambda asked: say(Status="accepted", APIToken="another-key-of-that-form")
    set_up(directory, api.url)
    assert without_secrets(f"<{key_of(directory)}>") == "<[secret]>", "nor in a crash"


def test_outage_of_the_api_and_cut_answers_are_waited_for(api: RecordingApi, directory: StateDirectory) -> None:
    usual, broken = api._registration, iter([Reply(503), Reply(200, b'{"URL": "x"}', cut=3), Reply(500, b"x")])
    api.overrides[REGISTRATION] = lambda asked: next(broken, None) or usual(asked)
    set_up(directory, api.url)
    assert len(api.keys) == 1


def test_second_run_renews_the_key_and_says_what_changed(api: RecordingApi, directory: StateDirectory) -> None:
    set_up(directory, api.url, protocols=("v4",))
    former = key_of(directory)
    said = set_up(directory, api.url)
    assert api.to(REGISTRATION)[-1].key == former, "the API learns which monitor it is"
    assert key_of(directory) != former
    assert "the API key was renewed" in said and "IPv6 ::1: testing, added" in said


def test_refused_former_key_is_not_used_again(api: RecordingApi, directory: StateDirectory) -> None:
    set_up(directory, api.url)
    former = key_of(directory)
    api.refused_keys.add(former)
    said = set_up(directory, api.url)
    assert "not valid any more" in said[0]
    assert api.to(REGISTRATION)[-1].key is None and key_of(directory) != former


def test_key_is_never_shown_to_another_api(api: RecordingApi, directory: StateDirectory) -> None:
    set_up(directory, api.url)
    former = key_of(directory)
    with recording_api() as other:
        set_up(directory, other.url)
        assert all(asked.key != former for asked in other.asked)


def test_unreachable_protocol_is_left_out_with_a_hint(api: RecordingApi, directory: StateDirectory) -> None:
    said = set_up(directory, api.url.replace("localhost", "127.0.0.1"))
    assert any("IPv6 is left out" in line and "run setup again" in line for line in said)
    assert {asked.peer for asked in api.asked} == {"127.0.0.1"}


def test_wrong_clock_is_reported_and_harms_nothing(api: RecordingApi, directory: StateDirectory) -> None:
    api.clock_ahead = 86400
    said = set_up(directory, api.url)
    assert any("clock is 24h behind the API's" in line for line in said), said
    assert len(api.keys) == 1


def test_hand_written_state_keeps_its_broker(api: RecordingApi, directory: StateDirectory, tmp_path: Path) -> None:
    state = State(name=api.name, broker=Broker(host="127.0.0.1", port=1999), allow_private_targets=True)
    provision(tmp_path, "devel", state, "token")
    set_up(directory, api.url)
    assert directory.read_state() == state


def test_address_is_shown_as_a_picture_once(api: RecordingApi, directory: StateDirectory) -> None:
    shown: list[str] = []
    wanted = Wanted("host.example", "", ("v4", "v6"))
    Setup(directory, Client(api.url), wanted, lambda line: None, FAST, shown.append).run()
    assert shown == [CONFIRM]


def test_key_that_ends_while_we_wait_is_left_out(api: RecordingApi, directory: StateDirectory) -> None:
    """As after an operator has revoked it: the registration goes on, known by its id."""
    set_up(directory, api.url)
    former, usual = key_of(directory), api._registration

    def registration(asked: Asked) -> Reply:
        if len(api.to(REGISTRATION)) > before + 1:
            api.refused_keys.add(former)
        return refuse(401, "this API key is not valid") if asked.key in api.refused_keys else usual(asked)

    before = len(api.to(REGISTRATION))
    api.overrides[REGISTRATION] = registration
    set_up(directory, api.url)
    assert key_of(directory) != former and api.to(REGISTRATION)[-1].key is None
    assert [asked.key for asked in api.to(REGISTRATION)[before:]].count(former) == 2, "it is shown until it is refused"
    assert len(ids(api)) == 2, "one registration for each run"


def test_protocol_that_fails_while_we_wait_is_replaced_by_the_other(
    api: RecordingApi, directory: StateDirectory
) -> None:
    client = Client(api.url)
    usual, count = client.request, itertools.count()

    def request(*arguments: Any, family: IpVersion | None = None, **named: Any) -> Any:
        if family == "v4" and next(count) > 0:
            raise ApiUnreachable("no route to host", "connect")
        return usual(*arguments, family=family, **named)

    client.request = request  # type: ignore[method-assign]
    api.confirmed = False
    confirm_after = len(api.asked) + 4
    usual_answer = api._registration

    def registration(asked: Asked) -> Reply:
        api.confirmed = len(api.asked) > confirm_after
        return usual_answer(asked)

    api.overrides[REGISTRATION] = registration
    Setup(directory, client, Wanted("host.example", "", ("v4", "v6")), lambda line: None, FAST).run()
    assert [asked.peer for asked in api.to(REGISTRATION)][:3] == ["127.0.0.1", "::1", "::1"]
    assert key_of(directory) in api.keys.values()


def test_another_api_learns_nothing_and_its_predecessor_is_forgotten(
    api: RecordingApi, directory: StateDirectory
) -> None:
    set_up(directory, api.url)
    file = directory.read_file()
    known = msgspec.structs.replace(file, name=api.name, broker=Broker(host="127.0.0.1", port=1999))
    directory.write_file(known)
    set_up(directory, api.url)
    assert directory.read_file().broker == known.broker, "the same API: a running agent goes on with what it has"
    with recording_api() as other:
        set_up(directory, other.url)
        found = directory.read_file()
        assert (found.name, found.broker) == (None, None), "its token must not reach the former broker"


def test_finished_registration_on_a_read_only_disk_is_no_failure(
    api: RecordingApi, directory: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", read_only)
    set_up(directory, api.url)
    assert key_of(directory) in api.keys.values()


# ---- as a process --------------------------------------------------------------------------------------------------


def start(base: Path, *arguments: str, terminal: int | None = None, **environ: str) -> subprocess.Popen[str]:
    defaults = base / "defaults"
    defaults.touch()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MONITOR_") and k != "STATE_DIRECTORY"}
    env = {**inherited, "PYTHONWARNINGS": "error", "MONITOR_DEFAULTS_FILE": str(defaults), **environ}
    command = [sys.executable, "-m", "agent", "-e", "devel", "--state-dir", str(base), *arguments]
    pipe, nothing = subprocess.PIPE if terminal is None else terminal, subprocess.DEVNULL
    return subprocess.Popen(command, cwd=CHECKOUT, env=env, text=True, stdin=nothing, stdout=pipe, stderr=pipe)


def test_killed_command_run_again_ends_with_one_key_and_the_go_agents_name(api: RecordingApi, tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "base", "devel")
    directory.prepare()
    go_key, go_text = (
        "go-agents-key",
        json.dumps(
            {"API": {"APIKey": "go-agents-key"}, "Data": {"Name": "uspao1", "TLSName": api.name}, "DataSha": "0"}
        ),
    )
    directory.state_file.write_text(go_text)
    directory.state_file.chmod(0o644)
    api.keys["earlier"] = go_key
    api.confirmed = False
    refused = start(directory.path.parent, "setup", "--api", api.url)
    _, errors = refused.communicate(timeout=240)
    assert refused.returncode == 2 and f"is set up as {api.name}" in errors and "--yes" in errors, errors
    assert not api.asked, "nobody was asked whether to go on"
    first = start(directory.path.parent, "setup", "--yes", "--api", api.url)
    block_until(lambda: len(api.to(REGISTRATION)) >= 2, lambda: str(api.asked))
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    api.confirmed = True
    second = start(directory.path.parent, "setup", "--yes", "--api", api.url)
    said, errors = second.communicate(timeout=240)
    assert second.returncode == 0, (said, errors)
    assert "going on with the registration" in said
    assert len(ids(api)) == 1 and api.to(REGISTRATION)[0].key == go_key
    assert key_of(directory) == api.keys[ids(api).pop()]
    assert directory.read_file().name == api.name
    assert directory.go_state_file.read_text() == go_text
    assert stat.S_IMODE(directory.go_state_file.stat().st_mode) == 0o600
    assert key_of(directory) not in said + errors and go_key not in said + errors


def test_terminal_shows_the_address_as_a_code(api: RecordingApi, tmp_path: Path) -> None:
    api.confirmed = False
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    os.set_blocking(ours, False)
    said = b""

    def reads(what: str) -> bool:
        nonlocal said
        with contextlib.suppress(BlockingIOError):
            said += os.read(ours, 65536)
        return what.encode() in said

    process = start(tmp_path, "setup", "--api", api.url, terminal=theirs, TERM="xterm", PYTHONUTF8="1")
    try:
        block_until(lambda: reads("waiting for the confirmation"), lambda: said.decode("utf-8", "replace"))
        shown = said.decode()
        assert CONFIRM in shown and "\x1b[38;5;16;48;5;231m" in shown and "\N{UPPER HALF BLOCK}" in shown
    finally:
        process.kill()
        process.wait(60)
        os.close(ours)
        os.close(theirs)


def test_arguments_and_refusals_have_their_exit_codes(api: RecordingApi, tmp_path: Path) -> None:
    api.overrides[REGISTRATION] = lambda asked: refuse(403, "no more monitors")
    for url, code, why in (
        (api.url, 1, "the pool says: no more monitors"),
        ("http://pool.example", 2, "must begin with https://"),
        ("https://user:secret@pool.example", 2, "without a path, user or password"),
    ):
        process = start(tmp_path, "setup", "--api", url)
        _, errors = process.communicate(timeout=240)
        assert (process.returncode, why in errors, "secret" in errors) == (code, True, False), errors


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
def test_root_writes_files_as_the_owner_of_the_directory(api: RecordingApi, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as reachable:  # by every user, unlike tmp_path
        Path(reachable).chmod(0o755)
        base = Path(reachable) / "base"
        base.mkdir(mode=0o700)
        os.chown(base, 12345, 12346)
        # Root has been here before, and so has the user of the directory.
        left = base / "devel"
        (left / "spool").mkdir(parents=True)
        (left / "spool" / "batch").write_text("a batch")
        (left / "state.json").write_text("{}")
        secret, linked = Path(reachable) / "secret", Path(reachable) / "linked"
        secret.write_text("of root")
        linked.write_text("of root")
        (left / "soft").symlink_to(secret)
        os.link(linked, left / "hard")
        process = start(tmp_path, "--state-dir", str(base), "setup", "--api", api.url)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        found = list(base.rglob("*"))
        assert base / "devel" / "state.json" in found
        links = {left / "soft", left / "hard"}
        assert {(path.stat().st_uid, path.stat().st_gid) for path in found if path not in links} == {(12345, 12346)}
        assert secret.stat().st_uid == linked.stat().st_uid == 0, "nothing outside of the directory was given away"
