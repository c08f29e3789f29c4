"""Secrets come from the environment, from files that a sidecar writes, or from Vault, and go to their use alone."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from schema.names import Environment

DATABASE_FILES: Final = (Path("database.yaml"), Path("/vault/secrets/database.yaml"))
_VAULT_TOKEN_FILE: Final = Path("/vault/secrets/token")
_VAULT_MOUNT: Final = "kv"
_VAULT_TIMEOUT: Final = 10


class SecretUnavailable(Exception):
    """A secret cannot be had, or is not of its form. The message names where it was looked for, never what it is."""


@dataclass(frozen=True, slots=True, repr=False)
class DatabaseSecret:
    """What a file or Vault knows of the database."""

    dsn: str | None = None
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return "DatabaseSecret(...)"


def database_secret(env: Environment, *, files: tuple[Path, ...] = DATABASE_FILES) -> DatabaseSecret:
    """What ``database.yaml`` says under ``mysql:``, else Vault's ``database``, else nothing.

    Raises:
        SecretUnavailable: a file is there but cannot be read as that, or Vault is configured but does not answer.
    """
    for path in files:
        if path.exists():
            return _from_mapping(_read_yaml(path).get("mysql"), str(path))
    vault = from_vault(env, "database")
    return DatabaseSecret() if vault is None else _from_mapping(vault, f"Vault's ntppool/{env}/database")


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SecretUnavailable(f"{path}: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        # The error's own text quotes the line, and the line may be the password.
        raise SecretUnavailable(f"{path}: is no YAML{where}") from None
    except (ValueError, RecursionError):
        # An impossible date, or brackets without end.
        raise SecretUnavailable(f"{path}: cannot be read as YAML; quote its values") from None
    if not isinstance(content, Mapping):
        raise SecretUnavailable(f"{path}: must be a mapping with the key 'mysql'")
    return content


def _from_mapping(values: object, where: str) -> DatabaseSecret:
    if not isinstance(values, Mapping):
        raise SecretUnavailable(f"{where}: 'mysql' must be a mapping of user, pass or dsn")
    wanted = {name: values.get(name) for name in ("dsn", "user", "pass")}
    for name, value in wanted.items():
        if value is not None and not isinstance(value, str):
            raise SecretUnavailable(f"{where}: {name!r} must be a string, quote it")
    return DatabaseSecret(wanted["dsn"], wanted["user"], wanted["pass"])


def from_vault(env: Environment, name: str) -> Mapping[str, Any] | None:
    """The newest version of ``kv/ntppool/{env}/{name}``; None when no Vault is configured.

    Raises:
        SecretUnavailable: ``VAULT_ADDR`` is set, and the secret cannot be read.
    """
    address = os.environ.get("VAULT_ADDR")
    if not address:
        return None
    # Imported here: most installations have no Vault, and its client is slow to load.
    import hvac
    from hvac.exceptions import VaultError

    path = f"ntppool/{env}/{name}"
    client = hvac.Client(
        url=address, token=_vault_token(), verify=os.environ.get("VAULT_CACERT") or True, timeout=_VAULT_TIMEOUT
    )
    try:
        answer = client.secrets.kv.v2.read_secret_version(
            path=path, mount_point=_VAULT_MOUNT, raise_on_deleted_version=True
        )
        data = answer["data"]["data"]
    except (VaultError, OSError, ValueError, KeyError, TypeError) as error:  # requests' errors are of OSError
        raise SecretUnavailable(f"Vault at {address}: cannot read {_VAULT_MOUNT}/{path}: {error}") from error
    if not isinstance(data, Mapping):
        raise SecretUnavailable(f"Vault at {address}: {_VAULT_MOUNT}/{path} is no mapping")
    return data


def _vault_token() -> str | None:
    try:
        return _VAULT_TOKEN_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        return os.environ.get("VAULT_TOKEN")
