"""Test the HTTP client against a slow, a cutting and an untrusted API: it gives a reason, and never a secret."""

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from agent.api_client import MAX_ANSWER, ApiClient, ApiUnreachable, InvalidUrl
from schema.names import IpVersion
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


class BothFamilies(ApiClient):
    """A client whose API has addresses of both protocols, IPv6 first, whatever this machine resolves."""

    def resolve(self, family: IpVersion | None = None) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        found = ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
        return [(int(kind), int(socket.SOCK_STREAM), 0, "", (host, self.port)) for kind, host in found]


class WithoutIpv6(socket.socket):
    """A socket of a host whose kernel has no IPv6."""

    def __init__(self, family: int = -1, *arguments: int, **named: int) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, *arguments, **named)


def test_host_without_ipv6_uses_ipv4(api: RecordingApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", WithoutIpv6)
    ask(BothFamilies(f"http://127.0.0.1:{api.port}"))
    assert [asked.peer for asked in api.asked] == ["127.0.0.1"]


def test_host_without_free_files_or_threads_says_so(api: RecordingApi, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", no_thread)
    with pytest.raises(ApiUnreachable, match="can't start new thread"):
        ask(ApiClient(url(api)))


def test_local_address_is_used_for_its_protocol(api: RecordingApi) -> None:
    ask(ApiClient(url(api), local={"v4": "127.0.0.66", "v6": "2001:db8::1"}))
    assert [asked.peer for asked in api.asked] == ["127.0.0.66"]
    with pytest.raises(ApiUnreachable, match=r"MONITOR_API_BIND: cannot connect from 192\.0\.2\.66: ") as failed:
        ask(ApiClient(url(api), local={"v4": "192.0.2.66"}))
    assert failed.value.step == "connect"


def test_secret_that_no_header_can_carry_is_not_quoted(api: RecordingApi) -> None:
    with pytest.raises(ApiUnreachable) as failed:
        ApiClient(url(api)).request("GET", "/monitor/api/config", key=f"{KEY}\n")
    assert KEY not in str(failed.value) and failed.value.__cause__ is None


@pytest.mark.parametrize(
    ("sent", "found"),
    [('"abc"', '"abc"'), ('W/"abc"', 'W/"abc"'), ("abc", ""), ('"a b"', ""), ('"' + "x" * 201 + '"', ""), ('""', '""')],
)
def test_tag_is_passed_on_only_if_it_is_one(api: RecordingApi, sent: str, found: str) -> None:
    api.overrides["/monitor/api/config"] = lambda asked: Reply(304, headers={"ETag": sent})
    answer = ApiClient(url(api)).request("GET", "/monitor/api/config")
    assert (answer.status, answer.body, answer.etag) == (304, b"", found)
