"""What a run of the load generator is: one frozen value, and its file."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from schema.names import Environment, IpVersion

Share = Annotated[float, Meta(ge=0, le=1)]


class SpecError(ValueError):
    """A file is no specification of a run; the message says why."""


class Target(msgspec.Struct, frozen=True, array_like=True):
    """A server that a monitor measures, every ``interval`` seconds."""

    server_id: int
    ip: str
    interval: float


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A simulated monitor."""

    name: str
    ipv: IpVersion = "v4"
    targets: list[Target] = []
    """What it measures besides what retained messages assign to it."""


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Which parts of the batches are not as they should be; the others are."""

    bad: Share = 0.0
    """Hold results that must be rejected."""
    late: Share = 0.0
    """Hold results measured minutes to days ago, which count all the same."""
    duplicate: Share = 0.0
    """Are published again, while they wait for their acknowledgement and after it."""
    malformed: Share = 0.0
    """Cannot be decoded."""


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A run. Times are seconds."""

    env: Environment
    host: str
    port: int
    ca_file: Path | None = None
    """None: plain TCP."""
    key_file: Path
    """The key that tokens are signed with."""
    record: Path
    """Where it is written down what was sent and answered."""
    members: list[Member]
    listen: bool = False
    """Whether assignments are taken from retained messages too."""
    rate: Annotated[float, Meta(gt=0)] | None = None
    """Results a second of all monitors together; None: as the intervals of their targets say."""
    outstanding: Annotated[int, Meta(ge=1)] | None = None
    """Instead of a rate: always so many batches unacknowledged, so as much as is acknowledged."""
    ahead: Annotated[int, Meta(ge=0)] = 0
    """Batches that each monitor has before it sends the first, like one whose broker was away. To make a batch takes as
    long as to send it, and the machine is shared with what is measured."""
    batch: Annotated[int, Meta(ge=1, le=1000)] = 10
    """Results in a batch."""
    shares: Shares = Shares()
    seconds: Annotated[float, Meta(ge=0)] | None = None
    """For how long batches are made; None: until SIGTERM."""
    drain: Annotated[float, Meta(ge=0)] = 60.0
    """How long to wait at the end until everything is acknowledged."""
    spools: Path | None = None
    """A directory for spools on disk; None: they are in memory."""
    seed: int = 1
    ack_timeout: Annotated[float, Meta(gt=0)] = 10.0
    """How long a batch waits for its acknowledgement before it is sent again."""


def write_spec(path: Path, spec: LoadSpec) -> None:
    """Writes ``spec`` to a file."""
    path.write_bytes(msgspec.json.encode(spec, enc_hook=str))


def _path(kind: type, text: Any) -> Any:
    """Msgspec knows no paths."""
    return kind(text)


def read_spec(path: Path) -> LoadSpec:
    """The specification in a file.

    Raises:
        SpecError: there is none in it.
    """
    try:
        spec = msgspec.json.decode(path.read_bytes(), type=LoadSpec, dec_hook=_path)
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise SpecError(f"{path}: {error}") from None
    shares = spec.shares
    if shares.bad + shares.late + shares.duplicate + shares.malformed > 1:
        raise SpecError(f"{path}: shares: must be 1 together at most")
    if spec.rate is not None and spec.outstanding is not None:
        raise SpecError(f"{path}: rate and outstanding: give one of them")
    if not spec.members:
        raise SpecError(f"{path}: members: must be one at least")
    return spec
