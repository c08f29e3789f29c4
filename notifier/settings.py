"""Derive what the notifier needs from the settings of the process."""

from notifier.mail import DEFAULT_PORTS, Submission
from notifier.sender import SenderSettings
from notifier.texts import Links
from runtime.settings import WorkerSettings


def sender_settings(settings: WorkerSettings) -> SenderSettings:
    """Return the settings of senders' processes.

    Raises:
        ConfigurationError: the password's file cannot be read.
    """
    if settings.smtp_host is None:
        return SenderSettings()
    assert settings.smtp_from is not None, "the settings were validated"
    submission = Submission(
        host=settings.smtp_host,
        port=settings.smtp_port or DEFAULT_PORTS[settings.smtp_security],
        security=settings.smtp_security,
        sender=settings.smtp_from,
        user=settings.smtp_user,
        password=settings.smtp_password_text(),
        ca_file=None if settings.smtp_ca_file is None else str(settings.smtp_ca_file),
    )
    return SenderSettings(submission=submission)


def links(settings: WorkerSettings) -> Links:
    """Return the addresses of the pages that messages refer to."""
    return Links(settings.alert_server_url, settings.public_url())
