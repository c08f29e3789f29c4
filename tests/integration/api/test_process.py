"""Test the API as an operator runs it: over HTTP and TLS, IPv4 and IPv6, with real agents, slow clients and a stop."""

import json
import os
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest
import sqlalchemy as sa

from agent.api_client import ApiClient
from agent.certificate import is_for
from agent.renew import Renewal
from agent.renewal_file import Outcome
from agent.setup import Setup, Wanted
from agent.state import StateDirectory
from auth.api_key_store import revoke_key
from auth.certificates import revoke_monitor
from auth.registration.model import CONFIRM_PATH
from ops.__main__ import main
from runtime.db.engine import transaction
from runtime.http.connection import KEEP_ALIVE
from runtime.http.edge import ANSWER_WITHIN
from schema.tables import monitors
from testbed.fixtures.api import CONFIG, REGISTRATION, SECRET
from testbed.fixtures.api_process import FAST, ApiProcess, LocalClient
from testbed.fixtures.registering import OPERATOR, account, new_id, token_of_url
from testbed.fixtures.worker_process import WorkerProcess
from testbed.fixtures.world import DOMAIN
from testbed.ports import ADDRESS_V6, NO_IPV6, free_port, has_ipv6
from testbed.tls import LocalCa
from testbed.waiting import PATIENCE, block_until

NAME = f"nlams1-4xhq2c9.devel.{DOMAIN}"


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[ApiProcess]:
    with ApiProcess(tmp_path) as running:
        yield running


def fetch(url: str) -> tuple[int, str, str]:
    """Return status, content type and text of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["content-type"], error.read().decode()


# ---- the whole way of an agent ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not has_ipv6(), reason=NO_IPV6)
def test_an_agent_gets_from_setup_to_token_and_certificate_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ca, trusted, state = LocalCa(), tmp_path / "trusted.pem", StateDirectory(tmp_path / "agent", "devel")
    state.prepare()
    trusted.write_text(ca.certificate)
    listening = {"API_ADDRESS": "127.0.0.1,::1", "API_URL": "https://api.example"}
    with ApiProcess(tmp_path, tls=ca.issue("localhost"), **listening) as running:
        account(running.engine, "4xhq2c9")
        for name, value in running.settings.items():
            monkeypatch.setenv(name, value)
        said: list[str] = []

        def say(line: str) -> None:
            """Approve the registration as an operator does, as soon as its page is shown."""
            said.append(line)
            if "https://api.example/manage/monitors/confirm/" in line:
                command = ["registrations", "approve", token_of_url(line), "--location", "nlams"]
                assert main(["-e", "devel", *command]) == 0, capfd.readouterr().err

        client = LocalClient(f"https://localhost:{running.port}", trusted)
        Setup(state, client, Wanted("host.example", "4xhq2c9", ("v4", "v6")), say, FAST).run()
        assert {f"monitor {NAME}", "IPv4 127.0.0.1: pending", "IPv6 ::1: pending"} <= set(said)

        def renew() -> Outcome:
            return Renewal(state, lambda known: LocalClient(known.url, trusted)).run()

        waiting = renew()
        assert waiting.kind == "waiting" and "waits for its approval" in waiting.text
        assert main(["-e", "devel", "monitors", "approve", f"{NAME}/v4"]) == 0, capfd.readouterr().err
        done = renew()
        assert done.kind == "ok", done.text
        token = jwt.decode(state.read_token(), SECRET, algorithms=["HS384"])
        assert (token["sub"], token["role"]) == (NAME, "monitor")
        assert is_for(state.certificate_file.read_text(), NAME)
        broker = state.read_state().broker
        assert (broker.host, str(broker.port)) == ("127.0.0.1", running.settings["MQTT_PORT"])

        transaction(running.engine, lambda c: revoke_key(c, 1, datetime.now(UTC)))
        assert renew().kind == "refused"
        log, api = running.process.log_text(), state.read_file().api
    assert api is not None and api.key not in log and str(api.registration) not in log
    assert "Traceback" not in log and "ERROR" not in log


# ---- TLS and addresses -----------------------------------------------------------------------------------------------


def test_a_replaced_certificate_counts_without_a_restart_and_open_connections_stay(tmp_path: Path) -> None:
    ca = LocalCa()
    first, second = ca.issue("127.0.0.1"), ca.issue("127.0.0.1")
    context = ssl.create_default_context(cadata=ca.certificate)
    with ApiProcess(tmp_path, tls=first) as running:

        def shown() -> bytes | None:
            with running.connect() as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as made:
                return made.getpeercert(binary_form=True)

        assert shown() == ssl.PEM_cert_to_DER_cert(first.certificate)
        with running.connect() as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as kept:
            kept.sendall(b"POST /monitor/api/token HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{")
            began = time.monotonic()
            running.write(second)
            block_until(lambda: shown() == ssl.PEM_cert_to_DER_cert(second.certificate))
            if time.monotonic() - began < ANSWER_WITHIN / 2:  # else it may have been cut off for its slowness
                kept.sendall(b"}")
                assert kept.recv(65536).startswith(b"HTTP/1.1 401")
        with running.connect() as raw:  # plain HTTP at the port for TLS
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert not raw.recv(65536).startswith(b"HTTP")
        assert "Traceback" not in running.process.log_text()


@pytest.mark.skipif(not has_ipv6(), reason=NO_IPV6)
def test_both_protocols_are_served_and_metrics_tell(tmp_path: Path) -> None:
    metrics = free_port()
    with ApiProcess(tmp_path, API_ADDRESS=f"127.0.0.1,{ADDRESS_V6}", METRICS_PORT=str(metrics)) as running:
        for host in ("127.0.0.1", "[::1]"):
            status, kind, text = fetch(f"http://{host}:{running.port}/")
            assert (status, kind) == (200, "text/plain; charset=utf-8") and "devel" in text
        assert fetch(f"http://127.0.0.1:{running.port}{CONFIG}")[0] == 401
        block_until(lambda: fetch(f"http://127.0.0.1:{running.port}/monitor/api/crl.pem")[0] == 200)
        told = fetch(f"http://127.0.0.1:{metrics}/metrics")[2]
        assert "ntppool_api_requests_total{" in told and f'route="{CONFIG}"' in told
        assert "ntppool_api_keys_refused_total" in told


# ---- clients that are slow, silent or hostile ------------------------------------------------------------------------

CHUNKED = b"POST /monitor/api/token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"fff\r\n" + b"x" * 0xFFF + b"\r\n"


def test_hostile_requests_are_answered_and_leave_the_api_well(plain: ApiProcess) -> None:
    for sent, status in (
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000, b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b"200"),
        (b"POST /monitor/api/token HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n", b"413"),
        (CHUNKED + b"x\r\n", b"400"),
        (CHUNKED + CHUNK * 20, b"413"),
    ):
        with plain.connect() as raw:
            raw.sendall(sent)
            answer = raw.recv(65536)
            assert answer.startswith(b"HTTP/1.1 " + status), (sent[:60], answer)
    assert fetch(f"http://127.0.0.1:{plain.port}/")[0] == 200
    fetch(f"http://127.0.0.1:{plain.port}{CONFIRM_PATH}{'5ec7e7' * 5}00?code=5ec7e7")
    assert "Traceback" not in plain.process.log_text()
    assert "5ec7e7" not in plain.process.log_text(), "addresses of pages are secrets"


def test_slow_clients_do_not_delay_others_and_the_end_takes_less_than_5_seconds(plain: ApiProcess) -> None:
    """More clients than threads send half a body, or half a head; others are served, and the process ends in time."""
    half = b"POST /monitor/api/registration HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\na="
    slow = [plain.connect() for _ in range(40)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(half if number % 2 else b"GET / HT")
        assert fetch(f"http://127.0.0.1:{plain.port}{CONFIG}")[0] == 401
        assert slow[0].recv(1) == b"", "half a head is cut off"
        assert plain.process.ends_after(signal.SIGTERM) < 5
        assert plain.process.process.returncode == 0
        assert "Traceback" not in plain.process.log_text()
    finally:
        for connection in slow:
            connection.close()


def test_an_idle_connection_is_closed(plain: ApiProcess) -> None:
    with plain.connect() as raw:
        for _ in range(2):  # one connection serves several requests
            raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"/manage.\n"):
                answer += raw.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert raw.recv(1) == b""
        assert time.monotonic() - began > KEEP_ALIVE - 1


# ---- settings, and several processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says", "code"),
    [
        ({"API_ADDRESS": "192.0.2.77", "API_URL": "https://x.example"}, "plain HTTP is for loopback only", 2),
        ({"API_CERT_FILE": os.devnull, "API_KEY_FILE": os.devnull}, "must be matching PEM files", 1),
        ({"API_PORT": "taken"}, "must be local addresses and a free port", 2),
    ],
)
def test_unusable_settings_end_the_start_with_one_line(
    tmp_path: Path, given: dict[str, str], says: str, code: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        running = ApiProcess(tmp_path, **{name: port if value == "taken" else value for name, value in given.items()})
        running.prepare()
        running.engine.dispose()
        with running.process as process:
            assert process.process.wait(PATIENCE) == code, process.log_text()
            assert says in process.log_text() and "Traceback" not in process.log_text()


def test_two_processes_share_one_ledger(tmp_path: Path) -> None:
    with ApiProcess(tmp_path) as one:
        other, port = tmp_path / "other", free_port()
        other.mkdir()
        with WorkerProcess(other, "devel", "api", **one.settings | {"API_PORT": str(port)}) as second:
            second.wait_for_log("listening on")
            clients = [ApiClient(f"http://127.0.0.1:{number}") for number in (one.port, port)]
            number, owned = new_id().clear, account(one.engine, "4xhq2c9")

            def poll(turn: int) -> dict[str, str]:
                headers = {"Registration-ID": number}
                answer = clients[turn % 2].request("POST", REGISTRATION, headers=headers)
                return dict(json.loads(answer.body))

            [token] = {token_of_url(poll(turn)["URL"]) for turn in range(4)}
            one.these.confirm(token, account_id=owned, location="nlams", by=OPERATOR, now=datetime.now(UTC))
            [key] = {poll(turn)["APIToken"] for turn in range(4)}
            wanted = f"{CONFIG}?request_certificate=true"
            found = [client.request("GET", wanted, key=key).body for client in clients * 2]
            assert len({json.loads(config)["tls"]["key"] for config in found}) == 1

            # A revocation that no API process has made is published by all of them.
            lists = [f"http://127.0.0.1:{number}/monitor/api/crl.pem" for number in (one.port, port)]
            before = [block_until(lambda url=url: (got := fetch(url))[0] == 200 and got[2]) for url in lists]
            transaction(one.engine, lambda c: revoke_monitor(c, NAME, datetime.now(UTC)))
            for url, former in zip(lists, before, strict=True):
                block_until(lambda url=url, former=former: fetch(url)[2] != former)
            gone = sa.update(monitors).values(status="deleted")
            transaction(one.engine, lambda c: c.execute(gone))
            assert [client.request("POST", "/monitor/api/token", key=key).status for client in clients] == [403, 403]
