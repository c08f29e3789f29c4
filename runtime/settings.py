"""Load the settings of a worker from its environment: validated once, frozen, with every invalid value named."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from runtime.addresses import Address, Network, parse_addresses, parse_networks
from runtime.log import keep_out_of_logs, level_name, without_secrets
from runtime.loopback import is_loopback
from runtime.mqtt.types import BrokerAddress
from schema.messages import LogLevel
from schema.names import DEFAULT_ENVIRONMENT, Environment, InvalidName, check_monitor_name

if TYPE_CHECKING:
    # Imported where the database is used, so that a command that only uses the broker starts without SQLAlchemy.
    from sqlalchemy.engine import URL

Port = Annotated[int, Field(ge=1, le=65535)]
_URL: Final = re.compile(r"https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?")
_SENDER: Final = re.compile(r"[^<>@\s]+@[A-Za-z0-9.-]+|[^<>@\"\\\x00-\x1f]+ <[^<>@\s]+@[A-Za-z0-9.-]+>")
_PAGE: Final = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/[!-~]*")
_NODE: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


class ConfigurationError(Exception):
    """A setting is missing or invalid; the message names it and the valid values. A process exits with status 2."""


class WorkerSettings(BaseSettings):
    """Settings of every process of the server side, from its environment."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore")

    deployment_mode: Environment = DEFAULT_ENVIRONMENT
    log_level: Annotated[LogLevel, BeforeValidator(level_name)] = "info"

    mqtt_host: str = "localhost"
    mqtt_port: Port | None = None
    """Default: 8883 with a CA file, 1883 without."""
    mqtt_ca_file: Path | None = None
    mqtt_cert_file: Path | None = None
    mqtt_key_file: Path | None = None

    jwt_key: SecretStr | None = None
    jwt_key_file: Path | None = None

    api_key_pepper: SecretStr | None = None
    """Secret under which API keys are hashed; default: derived from the key that signs tokens."""
    api_key_pepper_file: Path | None = None
    api_key_pepper_former: SecretStr | None = None
    """The secret before: keys hashed under it remain valid, and are hashed anew when they are used."""
    api_key_pepper_former_file: Path | None = None
    monitors_domain: str = "mon.ntppool.dev"
    """Domain of the names of registered monitors, below which each environment has a label."""

    database_dsn: SecretStr | None = None
    """The ledger, with one server or several, which are tried in their order (:mod:`runtime.db.dsn`)."""
    log_scores_days: Annotated[int, Field(ge=2, le=3650)] | None = None
    """Retention of log rows in days; a review needs one day. Unset: 15 days, or no limit in a database that was adopted
    with its rows."""

    ca: Literal["files", "vault"] = "files"
    """Where the certificate authority is: in files, or the PKI engine of the Vault at ``VAULT_ADDR``."""
    ca_directory: Path | None = None
    """Directory of a CA in files; default: ``ca`` in the state directory."""
    ca_crl_file: Path | None = None
    """The revocation list for the broker; unset: none is written."""
    certificate_minutes: Annotated[int, Field(ge=2, le=398 * 1440)] = 90 * 1440
    """Lifetime of monitors' certificates."""

    api_address: str = "127.0.0.1"
    """Local addresses on which the API listens, separated by commas."""
    api_port: Port = 8086
    api_cert_file: Path | None = None
    """Certificate of the API, with its chain; unset: plain HTTP, which is for loopback only."""
    api_key_file: Path | None = None
    api_trusted_proxies: str = ""
    """Addresses and networks of proxies whose forwarded headers count, separated by commas."""
    api_url: str | None = None
    """Public URL of the API and its pages; default: from address and port."""
    api_broker_host: str | None = None
    """Broker that agents are told to use; default: that of the workers."""
    api_broker_port: Port | None = None
    api_broker_ca_file: Path | None = None
    api_operators: str = ""
    """Who sees and changes everything on the pages: verified e-mail addresses, ``subject:...`` of the provider of
    OpenID Connect, or ``account:TOKEN`` for those who log in with a key of an account; separated by commas."""
    oidc_issuer: str | None = None
    """Provider of OpenID Connect with which people log in; unset: they log in with the key of an account."""
    oidc_client_id: str | None = None
    oidc_client_secret: SecretStr | None = None
    oidc_client_secret_file: Path | None = None

    smtp_host: str | None = None
    """Mail server that takes the notifier's mails; unset: no mail is sent."""
    smtp_port: Port | None = None
    """Default: 587, 465 with TLS from the start, 25 without TLS."""
    smtp_security: Literal["starttls", "tls", "plain"] = "starttls"
    smtp_from: str | None = None
    """Sender of mails: an address, optionally with a name, as in ``NTP Pool <alerts@pool.example>``."""
    smtp_user: str | None = None
    smtp_password: SecretStr | None = None
    smtp_password_file: Path | None = None
    smtp_ca_file: Path | None = None
    """CA of the mail server's certificate; default: those of the system."""
    alert_server_url: str | None = None
    """Address of the page of a server, with ``{ip}`` for its address; unset: alerts have no link to it."""
    alert_no_results_minutes: Annotated[int, Field(ge=2, le=1440)] = 15
    """Minutes without results after which operators are told."""
    alert_database_nodes: str = ""
    """Nodes of the database that are watched one by one: hosts, each with an optional port, separated by commas."""

    web_address: str = "127.0.0.1"
    """Local addresses on which the public pages are served, separated by commas; plain HTTP, as behind a cache."""
    web_port: Port = 8087
    web_trusted_proxies: str = ""
    """Addresses and networks of proxies whose forwarded headers count, separated by commas."""

    metrics_address: str = "127.0.0.1"
    metrics_port: Port | None = None
    """Port of /metrics, /healthz and /readyz; unset: none."""

    @field_validator("monitors_domain")
    @classmethod
    def _domain(cls, domain: str) -> str:
        try:
            check_monitor_name(f"x.prod.{domain}")
        except InvalidName:
            raise ValueError("is not a domain in lower case, such as mon.example.net") from None
        return domain

    @field_validator(
        *("mqtt_ca_file", "mqtt_cert_file", "mqtt_key_file", "jwt_key_file"),
        *("api_key_pepper_file", "api_key_pepper_former_file", "oidc_client_secret_file"),
        *("api_cert_file", "api_key_file", "api_broker_ca_file", "smtp_password_file", "smtp_ca_file"),
    )
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        if path is not None and (path.is_dir() or not os.access(path, os.R_OK)):
            raise ValueError("is not a readable file")
        return path

    @field_validator(
        *("mqtt_key_file", "jwt_key_file", "api_key_pepper_file", "api_key_pepper_former_file", "api_key_file"),
        *("oidc_client_secret_file", "smtp_password_file"),
    )
    @classmethod
    def _private(cls, path: Path | None) -> Path | None:
        if path is not None:
            from runtime.secrets import warn_of_exposed

            warn_of_exposed(path)
        return path

    @field_validator("api_operators")
    @classmethod
    def _operators(cls, text: str) -> str:
        for entry in operator_entries(text):
            kind, colon, value = entry.partition(":")
            if not ((colon and value and kind in ("subject", "account")) or ("@" in entry and " " not in entry)):
                raise ValueError("must be e-mail addresses, subject:... or account:TOKEN, separated by commas")
        return text

    @field_validator("oidc_issuer")
    @classmethod
    def _issuer(cls, text: str | None) -> str | None:
        if text is None:
            return None
        try:
            parts = urlsplit(text)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ValueError("is not a URL") from None
        plain = {parts.username, parts.password} == {None} and not parts.query and not parts.fragment
        if not host or not plain or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))):
            raise ValueError(
                "must be a URL such as https://login.example.org, without user and query; http is for loopback only"
            )
        return text

    @model_validator(mode="after")
    def _login_complete(self) -> Self:
        secret = self.oidc_client_secret or self.oidc_client_secret_file
        if len({self.oidc_issuer is None, self.oidc_client_id is None, secret is None}) > 1:
            raise ValueError("OIDC_ISSUER, OIDC_CLIENT_ID, OIDC_CLIENT_SECRET_FILE: set all of them, or none")
        return self

    @model_validator(mode="after")
    def _plain_only_on_loopback(self) -> Self:
        if self.mqtt_ca_file is None and not is_loopback(self.mqtt_host):
            raise ValueError(f"MQTT_CA_FILE: needed for {self.mqtt_host}, since plain TCP is for loopback only")
        return self

    @model_validator(mode="after")
    def _certificate_complete(self) -> Self:
        if (self.mqtt_cert_file is None) != (self.mqtt_key_file is None):
            raise ValueError("MQTT_CERT_FILE, MQTT_KEY_FILE: set both, or none")
        if self.mqtt_cert_file is not None and self.mqtt_ca_file is None:
            raise ValueError("MQTT_CA_FILE: needed with MQTT_CERT_FILE, since certificates are for TLS only")
        return self

    @field_validator("api_address", "web_address")
    @classmethod
    def _local_addresses(cls, text: str) -> str:
        parse_addresses(text)
        return text

    @field_validator("api_trusted_proxies", "web_trusted_proxies")
    @classmethod
    def _proxies(cls, text: str) -> str:
        parse_networks(text)
        return text

    @field_validator("api_url")
    @classmethod
    def _public_url(cls, url: str | None) -> str | None:
        if url is not None and not _URL.fullmatch(url):
            raise ValueError("must be an address such as https://api.pool.example, without a path")
        return None if url is None else url.rstrip("/")

    @field_validator("smtp_from")
    @classmethod
    def _sender(cls, text: str | None) -> str | None:
        if text is not None and not _SENDER.fullmatch(text):
            raise ValueError("must be an address, or a name and an address such as NTP Pool <alerts@pool.example>")
        return text

    @model_validator(mode="after")
    def _mail_complete(self) -> Self:
        if self.smtp_host is None:
            return self
        if self.smtp_from is None:
            raise ValueError("SMTP_FROM: needed with SMTP_HOST: the sender of mails")
        if (self.smtp_user is None) != (self.smtp_password is None and self.smtp_password_file is None):
            raise ValueError("SMTP_USER, SMTP_PASSWORD_FILE: set both, or none")
        if self.smtp_security == "plain" and not is_loopback(self.smtp_host):
            raise ValueError(f"SMTP_SECURITY: must be starttls or tls for {self.smtp_host}; plain is for loopback only")
        return self

    @field_validator("alert_server_url")
    @classmethod
    def _server_pages(cls, url: str | None) -> str | None:
        if url is not None and not (_PAGE.fullmatch(url) and url.count("{ip}") == 1):
            raise ValueError("must be an address such as https://pool.example/scores/{ip}")
        return url

    @field_validator("alert_database_nodes")
    @classmethod
    def _nodes(cls, text: str) -> str:
        if text.strip() and not all(_NODE.fullmatch(part.strip()) for part in text.split(",")):
            raise ValueError(
                "must be hosts with optional ports, separated by commas, such as db1,db2:3307,[2001:db8::3]"
            )
        return text

    @model_validator(mode="after")
    def _api_protected(self) -> Self:
        if (self.api_cert_file is None) != (self.api_key_file is None):
            raise ValueError("API_CERT_FILE, API_KEY_FILE: set both, or none")
        on_loopback = all(address.is_loopback for address in self.api_addresses())
        if not on_loopback and self.api_cert_file is None:
            raise ValueError(
                f"API_CERT_FILE: needed for API_ADDRESS={self.api_address}, since plain HTTP is for loopback only"
            )
        if not on_loopback and self.api_url is None:
            raise ValueError(f"API_URL: needed for API_ADDRESS={self.api_address}: the public address of the API")
        broker = self.broker_of_agents()
        if broker.ca_file is None and not is_loopback(broker.host):
            raise ValueError(
                f"API_BROKER_CA_FILE: needed for {broker.host}, since agents use plain TCP on loopback only"
            )
        return self

    def api_addresses(self) -> tuple[Address, ...]:
        """Return the local addresses on which the API listens."""
        return parse_addresses(self.api_address)

    def trusted_proxies(self) -> tuple[Network, ...]:
        """Return the networks of proxies whose forwarded headers count."""
        return parse_networks(self.api_trusted_proxies)

    def web_addresses(self) -> tuple[Address, ...]:
        """Return the local addresses on which the public pages are served."""
        return parse_addresses(self.web_address)

    def web_proxies(self) -> tuple[Network, ...]:
        """Return the networks of proxies before the public pages whose forwarded headers count."""
        return parse_networks(self.web_trusted_proxies)

    def public_url(self) -> str:
        """Return the URL of the API and its pages for people and agents, without a slash at its end."""
        if self.api_url is not None:
            return self.api_url
        first = self.api_addresses()[0]
        host = f"[{first}]" if first.version == 6 else str(first)
        return f"{'http' if self.api_cert_file is None else 'https'}://{host}:{self.api_port}"

    def broker_of_agents(self) -> BrokerAddress:
        """Return the address of the broker that agents are told to use."""
        ours = self.broker_address()
        ca_file = self.api_broker_ca_file or ours.ca_file
        # The workers' port is another listener's if only agents use TLS.
        usual = 8883 if self.api_broker_ca_file is not None and ours.ca_file is None else ours.port
        return BrokerAddress(self.api_broker_host or ours.host, self.api_broker_port or usual, ca_file)

    def broker_address(self) -> BrokerAddress:
        """Return the address of the broker."""
        port = self.mqtt_port or (8883 if self.mqtt_ca_file else 1883)
        return BrokerAddress(self.mqtt_host, port, self.mqtt_ca_file, self.mqtt_cert_file, self.mqtt_key_file)

    def jwt_key_text(self) -> str:
        """Return the key to sign tokens: ``JWT_KEY``, else ``JWT_KEY_FILE``, else Vault's ``jwt``.

        Raises:
            ConfigurationError: there is none.
        """
        text = self._jwt_key_text()
        keep_out_of_logs(text)
        return text

    def _jwt_key_text(self) -> str:
        if self.jwt_key is not None:
            return self.jwt_key.get_secret_value()
        if self.jwt_key_file is not None:
            return _read_key("JWT_KEY_FILE", self.jwt_key_file)
        from runtime.secrets import SecretUnavailable, from_vault

        try:
            vault = from_vault(self.deployment_mode, "jwt")
        except SecretUnavailable as error:
            raise ConfigurationError(f"JWT_KEY: {error}") from error
        if vault is None or not isinstance(vault.get("key"), str):
            raise ConfigurationError("JWT_KEY or JWT_KEY_FILE: must be set to the key that tokens are signed with")
        return str(vault["key"])

    def pepper_text(self) -> tuple[str, str]:
        """Return the secret under which API keys are hashed, and the name of its setting.

        It is ``API_KEY_PEPPER``, else ``API_KEY_PEPPER_FILE``, else the key that signs tokens.

        Raises:
            ConfigurationError: there is none.
        """
        own = _secret("API_KEY_PEPPER", self.api_key_pepper, self.api_key_pepper_file)
        return own or (self.jwt_key_text(), "JWT_KEY")

    def former_pepper_text(self) -> tuple[str, str] | None:
        """Return the former secret of API keys, and the name of its setting; ``None`` if there is none."""
        return _secret("API_KEY_PEPPER_FORMER", self.api_key_pepper_former, self.api_key_pepper_former_file)

    def oidc_secret_text(self) -> str:
        """Return the secret of our client at the provider of OpenID Connect.

        It is ``OIDC_CLIENT_SECRET``, else ``OIDC_CLIENT_SECRET_FILE``.

        Raises:
            ConfigurationError: there is none.
        """
        found = _secret("OIDC_CLIENT_SECRET", self.oidc_client_secret, self.oidc_client_secret_file)
        if found is None or not found[0].strip():
            raise ConfigurationError("OIDC_CLIENT_SECRET_FILE: must hold the secret of OIDC_CLIENT_ID")
        return found[0].strip()

    def smtp_password_text(self) -> str | None:
        """Return the password at the mail server: ``SMTP_PASSWORD``, else ``SMTP_PASSWORD_FILE``; None without a user.

        Raises:
            ConfigurationError: the file cannot be read.
        """
        found = _secret("SMTP_PASSWORD", self.smtp_password, self.smtp_password_file)
        return None if found is None or self.smtp_user is None else found[0].strip()

    def database_url(self) -> "URL":
        """Return the URL of the ledger, by default SQLite in the state directory.

        Raises:
            ConfigurationError: the DSN has an unknown form, or a file with its secret is invalid.
        """
        from sqlalchemy.engine import URL

        from runtime.db.dsn import InvalidDsn
        from runtime.secrets import SecretUnavailable

        try:
            url = self._configured_url()
        except (InvalidDsn, SecretUnavailable) as error:
            raise ConfigurationError(f"DATABASE_DSN: {error}") from error
        if url is None:
            directory = server_state_directory(self.deployment_mode)
            return URL.create("sqlite", database=str(_created(directory) / "ledger.db"))
        if url.get_backend_name() == "sqlite" and not Path(str(url.database)).parent.is_dir():
            raise ConfigurationError(f"DATABASE_DSN: {url.database}: its directory does not exist")
        keep_out_of_logs(url.password or "")
        return url

    def _configured_url(self) -> "URL | None":
        from runtime.db.dsn import InvalidDsn, parse_dsn
        from runtime.secrets import database_secret

        if self.database_dsn is None:
            secret = database_secret(self.deployment_mode)
            if secret.dsn is not None:
                return parse_dsn(secret.dsn, user=secret.user, password=secret.password)
            if secret.user is not None:
                raise InvalidDsn("must be set, since database.yaml has a user but no dsn")
            return None
        url = parse_dsn(self.database_dsn.get_secret_value())
        if url.get_backend_name() == "sqlite" or url.password is not None:
            return url
        secret = database_secret(self.deployment_mode)
        if secret.user is not None and url.username in (None, secret.user):
            return url.set(username=secret.user, password=secret.password)
        return url


def operator_entries(text: str) -> list[str]:
    """Return the entries of ``API_OPERATORS``."""
    return [entry for part in text.split(",") if (entry := part.strip())]


def _read_key(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{name}: cannot be read as text ({type(error).__name__})") from None


def _secret(name: str, given: SecretStr | None, file: Path | None) -> tuple[str, str] | None:
    """Return a secret and the name of the setting that has it, the variable before the file."""
    if given is not None:
        found = (given.get_secret_value(), name)
    elif file is not None:
        found = (_read_key(f"{name}_FILE", file), f"{name}_FILE")
    else:
        return None
    keep_out_of_logs(found[0].strip())
    return found


def _created(directory: Path) -> Path:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"STATE_DIRECTORY: {directory} cannot be created ({error.strerror}); set it, or DATABASE_DSN"
        ) from error
    return directory


def server_state_directory(env: Environment) -> Path:
    """Return the directory for files of the server side: systemd's state directory, else the user's data directory."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0]) / env
    if data := os.environ.get("XDG_DATA_HOME"):
        return Path(data) / "ntppool-monitor" / env
    try:
        return Path.home() / ".local" / "share" / "ntppool-monitor" / env
    except RuntimeError:  # neither HOME nor an entry in the list of users
        raise ConfigurationError("STATE_DIRECTORY: must be set, or DATABASE_DSN, since this user has no home") from None


def load_settings(**given: Any) -> WorkerSettings:
    """Load the settings of this process; arguments in ``given`` that are not None override the environment.

    Raises:
        ConfigurationError: one or more are invalid; the message names each with its value unless that is secret.
    """
    try:
        return WorkerSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError("\n".join(_setting_error(e) for e in error.errors(include_url=False))) from None


def _setting_error(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    # Not even the name of the key's file, since some users put the key itself there.
    secret = name in ("jwt_key", "jwt_key_file", "database_dsn")
    secret = secret or name.startswith(("api_key_pepper", "oidc_", "smtp_password"))
    value = "" if secret else without_secrets(f"={error['input']}")
    return f"{name.upper()}{value}: {message}"
