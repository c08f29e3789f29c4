"""Send messages in a process of its own: ``python -m notifier.sender``, one job per line of stdin, one outcome per line
of stdout, until stdin ends.

The worker can end this process, and with it a channel that hangs. The libraries of the channels, their memory and their
faults stay out of the worker. The first line of stdin has the settings.
"""

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, Final
from urllib.parse import unquote

import msgspec

from notifier.guard import Guard
from notifier.jobs import Job, Outcome
from notifier.mail import MailFailed, Submission, send_mail
from runtime.printable import printable

ANSWER_WITHIN: Final = 10.0
"""Seconds to connect to a channel, and to wait for its answer."""

_MOST_REASON: Final = 300


class SenderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a sender's process."""

    submission: Submission | None = None
    """None: mail is not configured."""


class Failed(Exception):
    """A message could not be sent; the message gives the reason."""


def serve(lines: BinaryIO, answers: BinaryIO, guard: Guard) -> None:
    """Execute all jobs."""
    settings = msgspec.json.decode(lines.readline(), type=SenderSettings)
    for line in lines:
        answers.write(msgspec.json.encode(execute(msgspec.json.decode(line, type=Job), settings, guard)) + b"\n")
        answers.flush()


def execute(job: Job, settings: SenderSettings, guard: Guard, send_url: Callable[[Job], None] | None = None) -> Outcome:
    """Send one message.

    Args:
        send_url: by default with Apprise.
    """
    try:
        if job.kind == "mail":
            guard.open()  # the mail server is the operators', and may be on this machine
            _mail(job, settings)
        else:
            (guard.close if job.for_account else guard.open)()
            (send_url or _apprise)(job)
    except (Failed, MailFailed) as error:
        return Outcome(failure=without_address(guard.refusal or str(error), job.address))
    except Exception as error:  # a library's defect concerns one message
        return Outcome(failure=without_address(f"{type(error).__name__}: {error}", job.address))
    finally:
        guard.open()
    return Outcome()


def _mail(job: Job, settings: SenderSettings) -> None:
    if settings.submission is None:
        raise Failed("SMTP_HOST is not set, so no mail can be sent")
    send_mail(job, settings.submission, ANSWER_WITHIN)


def _apprise(job: Job) -> None:
    import apprise

    # Nothing is stored on disk, no redirect is followed, and nothing of the text is interpreted.
    asset = apprise.AppriseAsset(
        app_id="NTP Pool", app_desc="NTP Pool", async_mode=False, interpret_escapes=False, http_redirects=False
    )
    heard = _Warnings()
    apprise.logger.addHandler(heard)
    try:
        found = apprise.Apprise(asset=asset)
        # Apprise knows the web addresses that some chats show to their users; any other is a webhook.
        if not (_is_native(apprise, job.address) and found.add(job.address)):
            heard.texts.clear()
            if not found.add(_with_timeouts(webhook(job))):
                raise Failed("the URL is not valid for Apprise")
        sent = found.notify(
            title=job.title,
            body=job.body,
            body_format=apprise.NotifyFormat.TEXT,
            notify_type=apprise.NotifyType.INFO,
        )
        if not sent:
            raise Failed("; ".join(heard.texts) or "the channel did not take the message")
    finally:
        apprise.logger.removeHandler(heard)


def _is_native(apprise: Any, address: str) -> bool:
    if not address.lower().startswith("https://"):
        return False
    return any(plugin.parse_native_url(address) for plugin in apprise.NotificationManager().plugins())


def webhook(job: Job) -> str:
    """Return the URL for Apprise: a web address becomes a JSON webhook, with the key of the message as a header."""
    scheme, _, rest = job.address.partition("://")
    if scheme.lower() in ("http", "https"):
        scheme = "json" if scheme.lower() == "http" else "jsons"
    if scheme.lower() not in ("json", "jsons"):
        return f"{scheme}://{rest}"
    return f"{scheme}://{rest}{'&' if '?' in rest else '?'}+Idempotency-Key={job.key}"


def _with_timeouts(url: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}cto={ANSWER_WITHIN:g}&rto={ANSWER_WITHIN:g}"


class _Warnings(logging.Handler):
    """Keep what Apprise warns about, which is the only place where it gives reasons."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def without_address(text: str, address: str) -> str:
    """Return a reason on one line without parts of the address that may be a secret."""
    parts = {part for part in re.split(r"[/?&=:@,]+", address) if len(part) >= 6}
    for part in sorted(parts | {unquote(part) for part in parts} | {address}, key=len, reverse=True):
        text = text.replace(part, "...")
    return printable(text)[:_MOST_REASON]


def main() -> None:
    """Serve the worker that has started this process."""
    # Its answers are the only text on stdout, and its only channel: what libraries print must not be one.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.disable(logging.INFO)
    guard = Guard()
    guard.install()
    serve(sys.stdin.buffer, answers, guard)


def argv() -> list[str]:
    """Return the command line of a sender's process."""
    return [sys.executable, "-m", "notifier.sender"]


def environment() -> dict[str, Any]:
    """Return its environment: nothing that it does not need, and no proxy, whose address would hide the channel's."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
    return {name: value for name, value in os.environ.items() if name in kept}


if __name__ == "__main__":
    main()
