"""Test the verdicts of ``api ok`` on each step, and that each failure says what would help."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.api_client import Answer, ApiUnreachable
from agent.check_steps import (
    Step,
    answer_step,
    broker_step,
    certificate_step,
    clock_step,
    configuration_step,
    connection_step,
    key_step,
    login_step,
    name_step,
    publish_step,
    tls_step,
    token_problem,
    token_step,
)

NAME = "uspao1-acc1.devel.mon.example"
NOW = 1_800_000_000.0


def answer(status: int = 200, body: Any = b"", **fields: Any) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, "application/json", content, peer="192.0.2.1", **fields)


def config(status: str = "active", **members: Any) -> Answer:
    made = {"tls_name": NAME, "ipv4": {"ip": "192.0.2.7", "status": status}, "broker": {"host": "::1"}, **members}
    return answer(body=made)


def token(name: str = NAME, ends: float = 3600.0) -> str:
    claims = json.dumps({"sub": name, "iat": NOW - 60, "exp": NOW + ends}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.secret"


REFUSED = ApiUnreachable("https://api.example: Connection refused", "connect")
UNTRUSTED = ApiUnreachable("https://api.example: its certificate is not trusted", "tls")
SILENT = ApiUnreachable("https://api.example: timed out", "answer")


@pytest.mark.parametrize(
    ("step", "verdict", "words"),
    [
        (name_step("a.example", {"v4": ["192.0.2.1"]}, {"v6": "none"}), "ok", "IPv4 192.0.2.1; no IPv6 (none)"),
        (name_step("a.example", {}, {"v4": "no such name"}), "failed", "resolv.conf"),
        (connection_step({"v4": answer(), "v6": answer()}, ()), "ok", "IPv4 and IPv6"),
        (connection_step({"v4": answer(), "v6": REFUSED}, ("v4",)), "ok", "not by IPv6"),
        (connection_step({"v4": answer(), "v6": REFUSED}, ("v6",)), "note", "has registered that protocol"),
        (connection_step({"v4": REFUSED}, ()), "failed", "MONITOR_API_BIND"),
        (connection_step({"v4": UNTRUSTED}, ()), "ok", "IPv4"),
        (tls_step({"v4": answer()}, encrypted=True), "ok", "trusted"),
        (tls_step({"v4": answer()}, encrypted=False), "ok", "not used"),
        (tls_step({"v4": UNTRUSTED, "v6": answer()}, encrypted=True), "failed", "MONITOR_API_CA_FILE"),
        (answer_step({"v4": SILENT, "v6": answer(401)})[0], "ok", "HTTP 401 from 192.0.2.1"),
        (answer_step({"v4": answer(503)})[0], "failed", "HTTP 503. The API is away"),
        (answer_step({"v4": SILENT})[0], "failed", "timed out"),
        (answer_step({"v4": UNTRUSTED})[0], "failed", "not trusted"),
        (key_step(answer()), "ok", "accepts"),
        (key_step(answer(401, b"revoked\x1b[2J")), "failed", "revoked\\x1b[2J. Run 'ntppool-agent setup'"),
        (clock_step(answer()), "note", "cannot be judged"),
        (configuration_step(config(), "devel", NAME), "ok", f"{NAME}; IPv4 192.0.2.7 active"),
        (configuration_step(config(), "devel", None), "ok", "active"),
        (configuration_step(config(), "devel", "x1.devel.mon.example"), "note", "still has the name x1.devel"),
        (configuration_step(config("pending"), "devel", NAME), "note", "yet to approve"),
        (configuration_step(config("paused"), "devel", NAME), "note", "does not let"),
        (configuration_step(config("deleted"), "devel", NAME), "failed", "has deleted this monitor"),
        (configuration_step(config(broker=None), "devel", NAME), "note", "no broker yet"),
        (configuration_step(config(ipv4={}), "devel", NAME), "note", "no protocol is registered"),
        (configuration_step(config(), "prod", NAME), "failed", "is unusable"),
        (configuration_step(answer(404, b"nothing"), "devel", NAME), "failed", "HTTP 404 nothing"),
        (token_step(token(), "", None, running=True), "ok", "valid until 2027-01-15"),
        (token_step(None, "it ended", answer(), running=True), "failed", "See 'ntppool-agent status'"),
        (token_step(None, "it is missing", answer(), running=False), "note", "Start the agent"),
        (token_step(None, "it is missing", answer(), running=True, missing=True), "note", "fetches it now"),
        (token_step(None, "it ended", answer(403, b"not approved"), running=True), "failed", "not approved"),
        (token_step(None, "it ended", SILENT, running=False), "failed", "timed out"),
        (token_step(None, "it ended", None, running=False), "failed", "the API was not asked"),
        (certificate_step(None, "", NOW), "note", "there is none"),
        (certificate_step(None, "", NOW, lost=True), "note", "fetches another one"),
        (certificate_step(None, "key.pem: is missing", NOW), "failed", "key.pem: is missing"),
        (broker_step("mqtts://b:8883", None), "ok", "answers"),
        (broker_step("mqtts://b:8883", "timed out"), "failed", "TCP to port 8883"),
        (broker_step("mqtts://b:8883", "[SSL: CERTIFICATE_VERIFY_FAILED]"), "failed", "clock"),
        (login_step(None, refused=False), "ok", "accepts token and certificate"),
        (login_step(None, refused=False, used="a new token"), "ok", "accepts a new token"),
        (login_step("Not authorized", refused=True), "failed", "run 'ntppool-agent setup'"),
        (login_step("Server busy", refused=False), "failed", "Try again later"),
        (publish_step("/t", None), "ok", "acknowledged a message on /t"),
        (publish_step("/t", "refused"), "failed", "refused"),
    ],
    ids=lambda value: value.name if isinstance(value, Step) else str(value)[:30],
)
def test_verdict_and_advice(step: Step, verdict: str, words: str) -> None:
    assert step.verdict == verdict and words in step.line(), step
    assert "\n" not in step.line() and step.as_dict()["name"] == step.name
    if verdict == "failed" and step.name not in ("clock", "token"):
        assert step.help, "a failure comes with an advice"


@pytest.mark.parametrize(("ahead", "verdict"), [(0.0, "ok"), (59.0, "ok"), (61.0, "failed"), (-86400.0, "failed")])
def test_clock_is_compared_with_the_apis(ahead: float, verdict: str) -> None:
    step = clock_step(answer(date=datetime.now(UTC) - timedelta(seconds=ahead)))
    assert step.verdict == verdict


@pytest.mark.parametrize(
    ("text", "name", "problem"),
    [
        (token(), NAME, ""),
        (token(), None, ""),
        (token(ends=-1), NAME, "the token ended on 2027-01-15"),
        (token("x1.devel.mon.example"), NAME, "the token is for x1.devel.mon.example"),
        ("no token at all", NAME, "the token is not one of this pool"),
    ],
)
def test_unusable_token_is_described_without_quoting_it(text: str, name: str | None, problem: str) -> None:
    found = token_problem(text, name, NOW)
    assert found.startswith(problem) and bool(found) is bool(problem)
    assert "secret" not in found


@pytest.mark.parametrize(("begins", "ends", "verdict"), [(-1, 1, "ok"), (1, 2, "failed"), (-2, -1, "failed")])
def test_certificate_must_be_valid_now(begins: int, ends: int, verdict: str) -> None:
    now = datetime.fromtimestamp(NOW, UTC)
    step = certificate_step((now + timedelta(days=begins), now + timedelta(days=ends)), "", NOW)
    assert step.verdict == verdict
