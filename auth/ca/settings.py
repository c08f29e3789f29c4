"""Open the certificate authority that a process's settings name."""

from datetime import timedelta
from pathlib import Path

from auth.ca.authority import Authority
from auth.ca.files import FileAuthority
from runtime.settings import WorkerSettings, server_state_directory


def open_authority(settings: WorkerSettings) -> Authority:
    """Return the CA of the environment. It is not used yet, so it need not exist."""
    if settings.ca == "vault":
        from auth.ca.vault import VaultAuthority

        return VaultAuthority(settings.deployment_mode)
    return FileAuthority(ca_directory(settings), settings.deployment_mode)


def ca_directory(settings: WorkerSettings) -> Path:
    """Return the directory of a CA in files.

    Raises:
        ConfigurationError: it is not set, and there is no state directory.
    """
    return settings.ca_directory or server_state_directory(settings.deployment_mode) / "ca"


def monitor_lifetime(settings: WorkerSettings) -> timedelta:
    """Return the lifetime of monitors' certificates."""
    return timedelta(minutes=settings.certificate_minutes)
