"""Define the JSON of the API's answers, for encoding and for its OpenAPI description."""

from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

API_VERSION: Final = 1


class Answer(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class RegistrationAnswer(Answer):
    """The state of a registration."""

    url: str = Field(serialization_alias="URL", description="Page on which someone must confirm it.")
    status: Literal["pending", "accepted", "completed"] = Field(serialization_alias="Status")
    key: str | None = Field(
        default=None,
        serialization_alias="APIToken",
        repr=False,
        description="The API key, once the registration is accepted.",
    )


class ProtocolAnswer(Answer):
    """One protocol of the monitor."""

    ip: str = Field(default="", description="Its registered address; empty if the protocol is not registered.")
    status: str = Field(default="", description="Global status; it probes if this is testing or active.")


class BrokerAnswer(Answer):
    """The broker to use."""

    host: str
    port: int
    ca: str | None = Field(
        default=None, description="Certificates to trust, PEM; missing for plain TCP, which is for loopback only."
    )


class TlsAnswer(Answer):
    """Key and certificate, for agents that cannot make a key."""

    cert: str = Field(description="Certificate and chain, PEM.")
    key: str = Field(repr=False, description="Private key, PEM.")


class ConfigAnswer(Answer):
    """The configuration of a monitor."""

    name: str = Field(description="The public part of its name.")
    tls_name: str = Field(description="Its full name.")
    ipv4: ProtocolAnswer
    ipv6: ProtocolAnswer
    tls: TlsAnswer | None = Field(default=None, description="Only if asked for.")
    broker: BrokerAnswer
    api_version: int = API_VERSION


class TokenAnswer(Answer):
    """A token for the broker."""

    token: str = Field(repr=False)
    expires_on: datetime


class AccessAnswer(Answer):
    """A token of the older protocol."""

    access_token: str = Field(repr=False)
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105  # its kind
    expires_in: int = Field(description="Seconds.")


class CertificateAnswer(Answer):
    """A certificate."""

    certificate: str = Field(description="Certificate and chain, PEM.")
