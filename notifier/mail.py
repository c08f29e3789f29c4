"""Send one mail over SMTP, with an id that stays the same in every attempt.

Apprise sends mail, too, but with a new Message-ID each time. A constant one lets mail servers and readers recognize a
mail that was sent twice because its acknowledgement was lost.
"""

import smtplib
import ssl
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from typing import Final, Literal

import msgspec

from notifier.jobs import Job

Security = Literal["starttls", "tls", "plain"]
DEFAULT_PORTS: Final[dict[Security, int]] = {"starttls": 587, "tls": 465, "plain": 25}


_ONE_LINE: Final = SMTP.clone(max_line_length=998)
"""Headers are not folded: some versions of Python fold a long subject before its first word, which readers then show
with a space in front. 998 is the maximum of RFC 5322, section 2.1.1."""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """The mail server that takes our mails, from the settings."""

    host: str
    port: int
    security: Security
    sender: str
    """Address, optionally with a name."""
    user: str | None = None
    password: str | None = None
    ca_file: str | None = None

    def __repr__(self) -> str:
        return f"Submission({self.host}:{self.port})"


class MailFailed(Exception):
    """The mail server did not take the mail; the message gives the reason."""


def compose_mail(job: Job, sender: str) -> EmailMessage:
    """Return the mail of a message."""
    mail = EmailMessage(_ONE_LINE)
    domain = parseaddr(sender)[1].rpartition("@")[2] or "localhost"
    mail["Message-ID"] = f"<{job.key}@{domain}>"
    mail["Date"] = format_datetime(job.composed_on)
    mail["From"] = sender
    mail["To"] = job.address
    mail["Subject"] = job.title
    # RFC 3834: no vacation notes in return.
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(job.body)
    return mail


def send_mail(job: Job, submission: Submission, timeout: float) -> None:
    """Send the mail of a message.

    Args:
        timeout: seconds for each answer of the mail server.

    Raises:
        MailFailed: the mail server did not take it, or it is unknown whether it did.
    """
    mail = compose_mail(job, submission.sender)
    try:
        with _connected(submission, timeout) as server:
            if submission.user is not None:
                server.login(submission.user, submission.password or "")
            server.send_message(mail)
    except smtplib.SMTPRecipientsRefused as error:
        raise MailFailed("; ".join(_answer(*answer) for answer in error.recipients.values())) from None
    except smtplib.SMTPResponseException as error:
        raise MailFailed(_answer(error.smtp_code, error.smtp_error)) from None
    except (OSError, smtplib.SMTPException) as error:
        raise MailFailed(f"{submission.host}:{submission.port}: {error}") from None


def _connected(submission: Submission, timeout: float) -> smtplib.SMTP:
    place = (submission.host, submission.port)
    if submission.security == "plain":
        return smtplib.SMTP(*place, timeout=timeout)
    context = ssl.create_default_context(cafile=submission.ca_file)
    if submission.security == "tls":
        return smtplib.SMTP_SSL(*place, timeout=timeout, context=context)
    server = smtplib.SMTP(*place, timeout=timeout)
    try:
        server.starttls(context=context)
    except BaseException:
        server.close()
        raise
    return server


def _answer(code: int, text: bytes | str) -> str:
    return f"the mail server answered {code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"
