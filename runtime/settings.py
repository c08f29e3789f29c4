"""The settings of a worker: environment over default, checked once, frozen, with every wrong value named."""

import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL

from runtime.broker_types import BrokerAddress
from runtime.dsn import InvalidDsn, parse_dsn
from runtime.secrets import SecretUnavailable, database_secret, from_vault
from schema.messages import LogLevel
from schema.names import Environment

Port = Annotated[int, Field(ge=1, le=65535)]


class ConfigurationError(Exception):
    """A setting is missing or wrong; the message names it and what would be right. A process ends with status 2."""


class WorkerSettings(BaseSettings):
    """What every process of the server side reads from its environment."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore")

    deployment_mode: Environment = "devel"
    log_level: LogLevel = "info"

    mqtt_host: str = "localhost"
    mqtt_port: Port | None = None
    """Default: 8883 with a CA file, 1883 without."""
    mqtt_ca_file: Path | None = None
    mqtt_cert_file: Path | None = None
    mqtt_key_file: Path | None = None

    jwt_key: SecretStr | None = None
    jwt_key_file: Path | None = None

    database_dsn: SecretStr | None = None
    log_scores_days: Annotated[int, Field(ge=2, le=3650)] = 15
    """How long log rows are kept; a review of a server's monitors looks back a day."""

    metrics_address: str = "127.0.0.1"
    metrics_port: Port | None = None
    """Where /metrics and /healthz are; unset: nowhere."""

    @field_validator("mqtt_ca_file", "mqtt_cert_file", "mqtt_key_file", "jwt_key_file")
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        if path is not None and not os.access(path, os.R_OK):
            raise ValueError("is no readable file")
        return path

    @model_validator(mode="after")
    def _plain_only_on_loopback(self) -> Self:
        if (
            self.mqtt_ca_file is None
            and self.mqtt_host not in ("localhost", "::1")
            and not self.mqtt_host.startswith("127.")
        ):
            raise ValueError(f"MQTT_CA_FILE: needed for {self.mqtt_host}, since plain TCP is for loopback only")
        return self

    def broker_address(self) -> BrokerAddress:
        """Where the broker is."""
        port = self.mqtt_port or (8883 if self.mqtt_ca_file else 1883)
        return BrokerAddress(self.mqtt_host, port, self.mqtt_ca_file, self.mqtt_cert_file, self.mqtt_key_file)

    def jwt_key_text(self) -> str:
        """The key that tokens are signed with: ``JWT_KEY``, else ``JWT_KEY_FILE``, else Vault's ``jwt``.

        Raises:
            ConfigurationError: there is none.
        """
        if self.jwt_key is not None:
            return self.jwt_key.get_secret_value()
        if self.jwt_key_file is not None:
            return self.jwt_key_file.read_text(encoding="utf-8")
        try:
            vault = from_vault(self.deployment_mode, "jwt")
        except SecretUnavailable as error:
            raise ConfigurationError(f"JWT_KEY: {error}") from error
        if vault is None or not isinstance(vault.get("key"), str):
            raise ConfigurationError("JWT_KEY or JWT_KEY_FILE: must be set to the key that tokens are signed with")
        return str(vault["key"])

    def database_url(self) -> URL:
        """Where the ledger is; SQLite in the state directory when nothing says otherwise.

        Raises:
            ConfigurationError: the DSN is of no known form, or a file with its secret is broken.
        """
        try:
            if self.database_dsn is not None:
                return parse_dsn(self.database_dsn.get_secret_value())
            secret = database_secret(self.deployment_mode)
            if secret.dsn is not None:
                return parse_dsn(secret.dsn, user=secret.user, password=secret.password)
        except (InvalidDsn, SecretUnavailable) as error:
            raise ConfigurationError(f"DATABASE_DSN: {error}") from error
        if secret.user is not None:
            raise ConfigurationError("DATABASE_DSN: must be set, since database.yaml has a user but no dsn")
        directory = server_state_directory(self.deployment_mode)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return URL.create("sqlite", database=str(directory / "ledger.db"))


def server_state_directory(env: Environment) -> Path:
    """Where the server side keeps files: systemd's state directory, else the user's data directory."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0]) / env
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "ntppool-monitor" / env


def load_settings(**given: Any) -> WorkerSettings:
    """The settings of this process; ``given`` are arguments, which win over the environment when not None.

    Raises:
        ConfigurationError: one or more are wrong, each named with its value, unless that is secret.
    """
    try:
        return WorkerSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError("\n".join(_complaint(e) for e in error.errors(include_url=False))) from None


def _complaint(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    value = "" if name in ("jwt_key", "database_dsn") else f"={error['input']}"
    return f"{name.upper()}{value}: {message}"
