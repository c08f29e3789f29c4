"""Test senders' processes with a real mail server and a real web server on loopback, and channels that misbehave."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from notifier import senders as senders_module
from notifier.jobs import Job
from notifier.mail import Submission
from notifier.sender import SenderSettings
from notifier.senders import Senders
from testbed.fixtures.receivers import MailReceiver, WebReceiver, mail_receiver, web_receiver
from testbed.waiting import wait_until

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def running_mail() -> Iterator[MailReceiver]:
    with mail_receiver() as receiver:
        yield receiver


@pytest.fixture
def mail(running_mail: MailReceiver) -> MailReceiver:
    running_mail.mails.clear()
    running_mail.answer, running_mail.drop_after_taking = "250 taken", False
    return running_mail


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        yield receiver


@pytest.fixture
async def senders(mail: MailReceiver) -> AsyncIterator[Senders]:
    submission = Submission(host="127.0.0.1", port=mail.port, security="plain", sender="NTP Pool <alerts@pool.example>")
    found = Senders(SenderSettings(submission=submission), ends_within=30.0)
    async with found.running():
        yield found


def a_job(address: str, *, for_account: bool = False, **fields: Any) -> Job:
    kind = "url" if "://" in address else "mail"
    given = {"kind": kind, "key": KEY, "title": "Server 192.0.2.1 <b>", "body": "Line 1.\n*Line* 2 & <i>x</i>.\n"}
    moment = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
    return Job(address=address, for_account=for_account, composed_on=moment, **(given | fields))


async def test_a_mail_arrives_as_plain_text_with_the_key_as_its_id(senders: Senders, mail: MailReceiver) -> None:
    for of_account in (True, False):
        assert (await senders.send(a_job("anna@example.org", for_account=of_account))).failure is None
    first, second = mail.mails
    assert first["Message-ID"] == second["Message-ID"] == f"<{KEY}@pool.example>"
    assert (first["To"], first["Subject"]) == ("anna@example.org", "Server 192.0.2.1 <b>")
    assert first.get_content_type() == "text/plain"
    assert first.get_payload() == "Line 1.\n*Line* 2 & <i>x</i>.\n".replace("\n", "\r\n")


async def test_a_mail_server_that_refuses_or_breaks_off(senders: Senders, mail: MailReceiver) -> None:
    mail.answer = "451 try again later"
    assert (await senders.send(a_job("anna@example.org"))).failure == "the mail server answered 451 try again later"
    mail.answer, mail.drop_after_taking = "250 taken", True
    assert (await senders.send(a_job("anna@example.org"))).failure is not None
    mail.drop_after_taking = False
    assert (await senders.send(a_job("anna@example.org"))).failure is None
    assert {one["Message-ID"] for one in mail.mails} == {f"<{KEY}@pool.example>"}, "one mail, taken twice"


async def test_a_webhook_gets_the_text_and_the_key(senders: Senders, web: WebReceiver) -> None:
    assert (await senders.send(a_job(web.url("/hook?token=s3cret")))).failure is None
    [posted] = web.posted
    assert posted.path.startswith("/hook")
    assert posted.headers["Idempotency-Key"] == KEY
    assert posted.body["title"] == "Server 192.0.2.1 <b>"
    assert posted.body["message"].strip() == "Line 1.\n*Line* 2 & <i>x</i>."


async def test_a_webhook_that_refuses_is_reported_without_its_secret(senders: Senders, web: WebReceiver) -> None:
    web.status = 500
    failure = (await senders.send(a_job(web.url("/hook/s3cret-s3cret")))).failure
    assert failure is not None
    assert "500" in failure
    assert "s3cret" not in failure


async def test_a_redirect_is_not_followed(senders: Senders, web: WebReceiver) -> None:
    web.status, web.location = 307, web.url("/other")
    assert (await senders.send(a_job(web.url()))).failure is not None
    assert [posted.path for posted in web.posted] == ["/hook"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"])
async def test_the_webhook_of_an_account_reaches_no_private_address(
    senders: Senders, web: WebReceiver, host: str
) -> None:
    failure = (await senders.send(a_job(f"http://{host}:{web.port}/hook", for_account=True))).failure
    assert failure is not None
    assert web.posted == []
    # Apprise knows no other forms as hosts.
    known = ("127.0.0.1", "localhost", "0.0.0.0", "2130706433")
    assert failure.startswith("must not connect to") is (host in known), failure


async def test_a_channel_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port accepts connections, but nobody ever answers."""
    monkeypatch.setattr(senders_module, "STARTS_WITHIN", 0.0)
    senders = Senders(SenderSettings(), ends_within=1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        outcome = await senders.send(a_job(f"http://127.0.0.1:{silent.getsockname()[1]}/hook"))
    assert (outcome.failure, senders.idle) == ("the channel did not answer within 1 s", 0)


async def test_others_are_served_while_a_channel_hangs(senders: Senders, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(senders_module, "argv", lambda: [sys.executable, "-c", "import sys; sys.stdin.read()"])
        hanging = asyncio.create_task(senders.send(a_job("ops@example.org")))
        await wait_until(lambda: senders.running_now == 1)
    assert (await senders.send(a_job("anna@example.org"))).failure is None
    assert not hanging.done()
    hanging.cancel()
    await asyncio.wait({hanging})
    assert senders.running_now == 1, "only the idle one"


async def test_a_url_that_apprise_does_not_know(senders: Senders) -> None:
    assert (await senders.send(a_job("nosuchservice://a/b"))).failure == "the URL is not valid for Apprise"


async def test_processes_are_used_again(senders: Senders) -> None:
    for _ in range(3):
        assert (await senders.send(a_job("anna@example.org"))).failure is None
    assert senders.idle == 1
    await senders.close()
    assert senders.idle == 0
