"""Test the HTTP client against a slow, a cutting and an untrusted API: it gives a reason, and never a secret."""

import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from agent.api_client import MAX_ANSWER, ApiClient, ApiUnreachable, InvalidUrl
from testbed.recording_api import RecordingApi, Reply, recording_api
from testbed.tls import LocalCa

KEY = "ntpm_a_key_for_tests"


def pair(base: Path, ca: LocalCa, lifetime: timedelta) -> tuple[Path, Path]:
    """Write certificate and key of a server on loopback."""
    made = ca.issue("localhost", "127.0.0.1", lifetime=lifetime)
    certificate, key = base / "server.pem", base / "server.key"
    certificate.write_text(made.certificate)
    key.write_text(made.key)
    return certificate, key


@pytest.fixture
def ca_file(tmp_path: Path) -> tuple[LocalCa, Path]:
    ca = LocalCa()
    path = tmp_path / "ca.pem"
    path.write_text(ca.certificate)
    return ca, path


@pytest.fixture
def api() -> Iterator[RecordingApi]:
    with recording_api() as made:
        yield made


def url(api: RecordingApi) -> str:
    return f"{api.scheme}://127.0.0.1:{api.port}"


def ask(client: ApiClient) -> None:
    client.request("GET", "/monitor/api/config", key=KEY)


def test_trusted_server_is_spoken_to_by_tls(tmp_path: Path, ca_file: tuple[LocalCa, Path]) -> None:
    with recording_api(tls=pair(tmp_path, ca_file[0], timedelta(days=1))) as api:
        assert ApiClient(url(api), ca_file[1]).request("GET", "/monitor/api/config", key=KEY).status == 401
        assert [asked.key for asked in api.asked] == [KEY]


def test_untrusted_or_expired_certificate_gets_no_key(tmp_path: Path, ca_file: tuple[LocalCa, Path]) -> None:
    for lifetime, trusted, why in (
        (timedelta(days=1), None, "is not trusted"),
        (timedelta(minutes=-5), ca_file[1], "this host's clock is wrong: it says"),
    ):
        with recording_api(tls=pair(tmp_path, ca_file[0], lifetime)) as api:
            with pytest.raises(ApiUnreachable, match=why) as failed:
                ask(ApiClient(url(api), trusted))
            assert failed.value.step == "tls" and api.asked == []


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(body=b"x" * 100, cut=50), "cut|Connection reset"),
        (Reply(body=b"x" * (MAX_ANSWER + 1)), "larger than"),
        (Reply(301, headers={"Location": "http://127.0.0.1:1/"}), "redirect"),
        (Reply(seconds=3.0), "timed out|closed connection|cut"),
    ],
)
def test_unusable_answers_give_a_reason_without_the_key(api: RecordingApi, reply: Reply, why: str) -> None:
    api.overrides["/monitor/api/config"] = lambda asked: reply
    with pytest.raises(ApiUnreachable, match=why) as failed:
        ask(ApiClient(url(api), seconds=1.0))
    assert failed.value.step == "answer" and KEY not in str(failed.value)


def test_answer_that_comes_octet_by_octet_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                    while True:
                        connection.sendall(b"x")
                        time.sleep(0.05)
                except OSError:
                    pass

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(ApiUnreachable):
            ask(ApiClient(f"http://127.0.0.1:{server.getsockname()[1]}", seconds=1.0))
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "wrong",
    [
        "http://pool.example",
        "https://pool.example/path",
        "https://user:secret@pool.example",
        "ftp://pool.example",
        "https://pool.example:0",
        "https://pool.example:99999",
        "https://a b",
        "",
    ],
)
def test_unusable_addresses_are_refused(wrong: str) -> None:
    with pytest.raises(InvalidUrl) as refused:
        ApiClient(wrong)
    assert "secret" not in str(refused.value)
