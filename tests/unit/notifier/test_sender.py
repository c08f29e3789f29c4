"""Test how a sender's process executes its jobs, with a stand-in for Apprise."""

import io
from datetime import UTC, datetime

import msgspec

from notifier.guard import Guard
from notifier.jobs import Job, Outcome
from notifier.mail import Submission, compose_mail
from notifier.sender import Failed, SenderSettings, execute, serve, webhook, without_address

SUBMISSION = Submission(host="mail.example", port=587, security="starttls", sender="NTP Pool <alerts@pool.example>")


def a_job(**fields: object) -> Job:
    given = {"kind": "url", "address": "slack://tokentoken/secretsecret", "for_account": True, "key": "0123abcd"}
    text = {"title": "title", "body": "body\n", "composed_on": datetime(2026, 1, 2, 12, 0, tzinfo=UTC)}
    return Job(**(given | text | fields))  # type: ignore[arg-type]


def test_channels_of_accounts_are_guarded_and_those_of_operators_are_not() -> None:
    guard, closed = Guard(), []
    for of_account in (True, False):
        execute(a_job(for_account=of_account), SenderSettings(), guard, lambda _: closed.append(guard.closed))
    assert closed == [True, False]
    assert not guard.closed


def test_a_failure_has_a_reason_without_the_address() -> None:
    def fail(job: Job) -> None:
        raise Failed(f"error 404 at {job.address}, token secretsecret\nsecond line")

    assert execute(a_job(), SenderSettings(), Guard(), fail).failure == "error 404 at ..., token ...\\nsecond line"


def test_a_defect_of_a_library_concerns_one_message() -> None:
    def fail(job: Job) -> None:
        raise ZeroDivisionError("division by zero")

    assert execute(a_job(), SenderSettings(), Guard(), fail).failure == "ZeroDivisionError: division by zero"


def test_what_the_guard_refused_is_the_reason() -> None:
    guard = Guard()

    def fail(job: Job) -> None:
        guard.refusal = "must not connect to a private address"
        raise Failed("connection error")

    assert execute(a_job(), SenderSettings(), guard, fail).failure == "must not connect to a private address"


def test_mail_without_a_mail_server_says_which_setting_is_missing() -> None:
    outcome = execute(a_job(kind="mail", address="anna@example.org"), SenderSettings(), Guard())
    assert "SMTP_HOST" in (outcome.failure or "")


def test_one_outcome_per_job_in_their_order() -> None:
    jobs = [a_job(kind="mail", address="anna@example.org", key=str(n)) for n in range(3)]
    lines = b"".join(msgspec.json.encode(one) + b"\n" for one in (SenderSettings(), *jobs))
    answers = io.BytesIO()
    serve(io.BytesIO(lines), answers, Guard())
    found = [msgspec.json.decode(line, type=Outcome) for line in answers.getvalue().splitlines()]
    assert len(found) == 3
    assert all(one.failure for one in found)


def test_webhooks_get_the_key_of_the_message() -> None:
    assert webhook(a_job(address="https://hooks.example/x")) == "jsons://hooks.example/x?+Idempotency-Key=0123abcd"
    assert webhook(a_job(address="json://hooks.example/x?a=b")).endswith("?a=b&+Idempotency-Key=0123abcd")
    assert webhook(a_job()) == a_job().address


def test_every_attempt_of_a_mail_is_the_same_mail() -> None:
    job = a_job(kind="mail", address="anna@example.org", title="Server 192.0.2.1 ü", body="Zürich\n")
    first, second = (compose_mail(job, SUBMISSION.sender) for _ in range(2))
    assert first.as_bytes() == second.as_bytes()
    assert first["Message-ID"] == "<0123abcd@pool.example>"
    assert (first["To"], first["From"]) == ("anna@example.org", "NTP Pool <alerts@pool.example>")
    assert first["Auto-Submitted"] == "auto-generated"
    assert first["Date"] == "Fri, 02 Jan 2026 12:00:00 +0000"
    assert first.get_content() == "Zürich\n"


def test_a_long_subject_is_not_folded() -> None:
    title = "[NTP Pool, devel] Server 192.0.2.7 is not handed out: its score is below 10"
    mail = compose_mail(a_job(kind="mail", address="anna@example.org", title=title), SUBMISSION.sender)
    assert f"\r\nSubject: {title}\r\n".encode() in mail.as_bytes()


def test_jobs_and_settings_do_not_show_their_secrets() -> None:
    secret = Submission(host="h", port=1, security="tls", sender="a@b", user="u", password="password1234")
    assert "secretsecret" not in repr(a_job())
    assert "password1234" not in repr(SenderSettings(submission=secret))


def test_short_parts_of_an_address_are_not_hidden_in_a_reason() -> None:
    assert without_address("error at a/bc", "json://a/bc/secret%20value") == "error at a/bc"
    assert without_address("x secret value y", "json://a/bc/secret%20value") == "x ... y"
