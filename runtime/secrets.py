"""Read secrets from the environment, from files that a sidecar writes, or from Vault.

Vault's token is sent only to the address in ``VAULT_ADDR``, and only over https or to loopback.
"""

import functools
import logging
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from runtime.log import keep_out_of_logs
from runtime.loopback import is_loopback
from runtime.printable import printable
from schema.names import Environment

if TYPE_CHECKING:
    import hvac

log = logging.getLogger(__name__)

DATABASE_FILES: Final = (Path("database.yaml"), Path("/vault/secrets/database.yaml"))
_VAULT_TOKEN_FILE: Final = Path("/vault/secrets/token")
_VAULT_MOUNT: Final = "kv"
_VAULT_TIMEOUT: Final = 10
_VAULT_ADDRESS: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?"
)
_TOKEN: Final = re.compile(r"[!-~]+")
_LONGEST_REASON: Final = 400
"""Maximum characters of an error text from Vault or a proxy."""


class SecretUnavailable(Exception):
    """A secret is unavailable or malformed. The message names its source, never its value."""


@dataclass(frozen=True, slots=True, repr=False)
class DatabaseSecret:
    """Credentials and DSN of the database from a file or Vault."""

    dsn: str | None = None
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return "DatabaseSecret(...)"


def database_secret(env: Environment, *, files: tuple[Path, ...] = DATABASE_FILES) -> DatabaseSecret:
    """Return the ``mysql:`` section of ``database.yaml``, else Vault's ``database``, else an empty secret.

    Raises:
        SecretUnavailable: a file exists but is invalid, or Vault is configured but does not answer.
    """
    for path in files:
        if path.exists():
            warn_of_exposed(path)
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
        # The error's own text quotes the line, which may contain the password.
        raise SecretUnavailable(f"{path}: is not YAML{where}") from None
    except (ValueError, RecursionError):
        # An impossible date, or too many nested brackets.
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
    """Read the newest version of ``kv/ntppool/{env}/{name}``; None if no Vault is configured.

    Raises:
        SecretUnavailable: ``VAULT_ADDR`` is set, and the secret cannot be read.
    """
    vault = open_vault()
    if vault is None:
        return None
    path = f"ntppool/{env}/{name}"
    unreadable = f"Vault at {vault.address}: cannot read {_VAULT_MOUNT}/{path}"
    try:
        answer = vault.client.secrets.kv.v2.read_secret_version(
            path=path, mount_point=_VAULT_MOUNT, raise_on_deleted_version=True
        )
    except vault.errors as error:
        # Not chained, since some errors show the headers, and so the token.
        raise SecretUnavailable(f"{unreadable}: {vault.reason(error)}") from None
    if not isinstance(answer, Mapping):
        raise SecretUnavailable(f"{unreadable}: {not_ok(answer)}")
    versions = answer.get("data")
    data = versions.get("data") if isinstance(versions, Mapping) else None
    if not isinstance(data, Mapping):
        raise SecretUnavailable(f"{unreadable}: it is not a mapping")
    return data


@dataclass(frozen=True, slots=True, repr=False)
class OpenVault:
    """A client of Vault for one request or a few: the token may be another one later."""

    address: str
    client: "hvac.Client"
    errors: tuple[type[Exception], ...]
    """The errors of the client, of HTTP (OSError), and of malformed answers."""
    _token: str

    def __repr__(self) -> str:
        return f"OpenVault({self.address})"

    def reason(self, error: Exception) -> str:
        """Describe an error of the client on one line, without the token."""
        return _reason(error, self._token)


def open_vault() -> OpenVault | None:
    """Return a client for the Vault at ``VAULT_ADDR``, which has not connected yet; None if no Vault is configured.

    It follows no redirect, and uses https unless Vault is on loopback.

    Raises:
        SecretUnavailable: the address or the token is malformed.
    """
    address = os.environ.get("VAULT_ADDR")
    if not address:
        return None
    _check_address(address)
    token = _vault_token()
    # Imported here, since most installations have no Vault, and its client loads slowly.
    from hvac.exceptions import VaultError

    errors = (VaultError, OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError)
    return OpenVault(address, _client(address, token), errors, token)


def _check_address(address: str) -> None:
    match = _VAULT_ADDRESS.fullmatch(address)
    if match is None:
        # The value is not repeated, since it may be a password or the token.
        raise SecretUnavailable(
            "VAULT_ADDR: must be an address such as https://vault.example:8200, without a user or a password"
        )
    if match["scheme"] == "http" and not is_loopback(match["host"].strip("[]")):
        raise SecretUnavailable(
            f"VAULT_ADDR={address}: must begin with https://, since others on the network could read the token; "
            "plain http is for loopback only"
        )


def _client(address: str, token: str) -> "hvac.Client":
    import hvac
    import requests

    session = requests.Session()
    # A proxy for plain http would see the token; one for https forwards encrypted data.
    session.trust_env = address.startswith("https:")
    session.verify = os.environ.get("VAULT_CACERT") or True
    # A redirect would send the token to another host.
    return hvac.Client(url=address, token=token, session=session, timeout=_VAULT_TIMEOUT, allow_redirects=False)


def _vault_token() -> str:
    """Return Vault's token, or an empty text, since a Vault agent on this machine may add its own."""
    try:
        token = _VAULT_TOKEN_FILE.read_text(encoding="utf-8").strip()
        warn_of_exposed(_VAULT_TOKEN_FILE)
    except (OSError, UnicodeDecodeError):
        token = os.environ.get("VAULT_TOKEN", "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise SecretUnavailable(f"{_VAULT_TOKEN_FILE} or VAULT_TOKEN: must be printable ASCII without white space")
    keep_out_of_logs(token)
    return token


def _reason(error: Exception, token: str) -> str:
    """Describe the error on one line, without the token, which the answer may contain."""
    said = " ".join(str(error).split()) or type(error).__name__
    return printable(said.replace(token, "...") if token else said)[:_LONGEST_REASON]


def not_ok(answer: Any) -> str:
    """Describe an invalid answer; hvac returns the response itself unless it is 200 with JSON."""
    status = getattr(answer, "status_code", None)
    if status is not None and 300 <= status < 400:
        return f"it answers with a redirect (HTTP {status}), which is not followed; set VAULT_ADDR to its target"
    return f"its answer is not a JSON object (HTTP {status})"


# ---- files ---------------------------------------------------------------------------------------------------------


def warn_of_exposed(path: Path) -> None:
    """Warn once if all users of this machine may read or change a file with a secret.

    The file is used nevertheless. Kubernetes and Vault's agent write files with mode 0644, in containers without other
    users, and only the platform's configuration can change that.
    """
    try:
        rights = _rights_of_all(path)
    except OSError:
        return
    if rights:
        _warn_once(path, rights)


def _rights_of_all(path: Path) -> str:
    """Return the access of other users (neither owner nor group); empty if they cannot reach the file."""
    real = path.resolve(strict=True)
    if not all(parent.stat().st_mode & stat.S_IXOTH for parent in real.parents):
        return ""
    mode = real.stat().st_mode
    return " and ".join(word for word, bit in (("read", stat.S_IROTH), ("change", stat.S_IWOTH)) if mode & bit)


@functools.cache
def _warn_once(path: Path, rights: str) -> None:
    log.warning("%s: holds a secret, and all users of this machine may %s it; run 'chmod o= %s'", path, rights, path)
