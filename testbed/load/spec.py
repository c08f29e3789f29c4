"""Define a run of the load generator as one frozen value, and its file."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from schema.names import Environment, IpVersion

Share = Annotated[float, Meta(ge=0, le=1)]


class SpecError(ValueError):
    """A file is not a valid specification; the message gives the reason."""


class Target(msgspec.Struct, frozen=True, array_like=True):
    """A server that a monitor measures every ``interval`` seconds."""

    server_id: int
    ip: str
    interval: float


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A simulated monitor."""

    name: str
    ipv: IpVersion = "v4"
    targets: list[Target] = []
    """Targets in addition to those assigned by retained messages."""


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """The shares of faulty batches; all others are in order."""

    bad: Share = 0.0
    """Contain results that must be rejected."""
    late: Share = 0.0
    """Contain results measured minutes to days ago, which must be stored."""
    duplicate: Share = 0.0
    """Are published again, both before and after their acknowledgement."""
    malformed: Share = 0.0
    """Cannot be decoded."""


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A run. Times are seconds."""

    env: Environment
    host: str
    port: int
    ca_file: Path | None = None
    """None: plain TCP."""
    certificates: Path | None = None
    """Directory with ``<name>-cert.pem`` and ``<name>-key.pem`` of each monitor; None: they show none."""
    key_file: Path
    """The key that signs tokens."""
    record: Path
    """The file for the record of sent and answered batches."""
    members: list[Member]
    listen: bool = False
    """Whether to apply assignments from retained messages, too."""
    rate: Annotated[float, Meta(gt=0)] | None = None
    """Results per second of all monitors together; None: according to the targets' intervals."""
    outstanding: Annotated[int, Meta(ge=1)] | None = None
    """Constant number of unacknowledged batches, instead of a rate: as much as is acknowledged."""
    ahead: Annotated[int, Meta(ge=0)] = 0
    """Batches of each monitor before it sends the first, like after an outage of the broker. To make a batch takes as
    long as to send it, and the measured processes share the machine."""
    batch: Annotated[int, Meta(ge=1, le=1000)] = 10
    """Results per batch."""
    shares: Shares = Shares()
    seconds: Annotated[float, Meta(ge=0)] | None = None
    """How long to make batches; None: until SIGTERM."""
    drain: Annotated[float, Meta(ge=0)] = 60.0
    """How long to wait for acknowledgements at the end."""
    spools: Path | None = None
    """A directory for spools on disk; None: in memory."""
    seed: int = 1
    ack_timeout: Annotated[float, Meta(gt=0)] = 10.0
    """How long to wait for an acknowledgement before a batch is sent again."""


def write_spec(path: Path, spec: LoadSpec) -> None:
    """Write ``spec`` to a file."""
    path.write_bytes(msgspec.json.encode(spec, enc_hook=str))


def _path(kind: type, text: Any) -> Any:
    """Decode a path, which msgspec does not support."""
    return kind(text)


def read_spec(path: Path) -> LoadSpec:
    """Read the specification from a file.

    Raises:
        SpecError: the file is missing or invalid.
    """
    try:
        spec = msgspec.json.decode(path.read_bytes(), type=LoadSpec, dec_hook=_path)
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise SpecError(f"{path}: {error}") from None
    shares = spec.shares
    if shares.bad + shares.late + shares.duplicate + shares.malformed > 1:
        raise SpecError(f"{path}: shares: their sum must be at most 1")
    if spec.rate is not None and spec.outstanding is not None:
        raise SpecError(f"{path}: rate, outstanding: give at most one of them")
    if not spec.members:
        raise SpecError(f"{path}: members: must have at least one entry")
    return spec
