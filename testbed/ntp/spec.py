"""Define the faults of a simulated NTP server as one frozen value.

Demo, tests and benchmarks compare the system's measurements with it. ``python -m testbed.ntp fleet`` runs a list of
them from a JSON file.
"""

import ipaddress
import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec


class SpecError(ValueError):
    """A fleet's file is invalid; the message names the place, the value and the valid values."""


class Behaviour(StrEnum):
    """How a server answers."""

    NORMAL = "normal"
    SILENT = "silent"
    """Never."""
    SHORT = "short"
    """With the first 44 octets of a reply."""
    WRONG_MODE = "wrong_mode"
    """In mode 5 (broadcast) instead of 4 (server)."""
    WRONG_ORIGIN = "wrong_origin"
    """With an origin timestamp that differs from the client's."""
    WRONG_SOURCE = "wrong_source"
    """From a port that differs from the one asked."""
    ZERO_TRANSMIT = "zero_transmit"
    """With a transmit timestamp of zero, which means "unknown"."""
    DUPLICATE = "duplicate"
    """Twice, correctly."""
    FORGED_KISS = "forged_kiss"
    """With a kiss code DENY and a wrong origin, like an attacker who does not see the client's request."""


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One simulated server.

    Raises ValueError, naming the field, its value and the valid values.
    """

    address: str
    """Listening address: 127.0.0.0/8 or ::1, so that a wrong time never leaves the machine."""
    port: int = 123
    """0: any free one."""
    name: str = ""
    """Describes its behaviour, for people."""
    offset: float = 0.0
    """The server's clock minus the true clock, in seconds. The true clock is this machine's."""
    delay: float = 0.0
    """Delay of the simulated network, each way, in seconds. The round trip takes twice as long."""
    asymmetry: float = 0.0
    """Additional delay towards the server only, in seconds; a client measures half of it as offset."""
    jitter: float = 0.0
    """Each way is longer by the absolute value of a normal deviate with this standard deviation (s). What a client
    measures as offset scatters by 0.43 times this, around the truth."""
    loss: float = 0.0
    """Share of requests without an answer, 0 to 1."""
    stratum: int = 2
    leap: int = 0
    """0 none, 1 a leap second is inserted, 2 one is deleted, 3 not synchronised."""
    reference_id: str = "192.0.2.1"
    """An IPv4 address, or up to four ASCII characters such as GPS."""
    root_delay: float = 0.01
    """Seconds."""
    root_dispersion: float = 0.005
    """Seconds."""
    kiss: str = ""
    """Kiss code (RFC 5905, section 7.4), four ASCII characters such as RATE: sent at stratum 0."""
    kiss_share: float = 1.0
    """Share of answers that are the kiss code, 0 to 1; the others are correct."""
    hold: float = 0.0
    """Seconds by which it overstates the time that it held a request. A value above the round-trip time, or a negative
    time, contradicts the client's measurement."""
    behaviour: Behaviour = Behaviour.NORMAL
    then_answer: bool = False
    """Whether the correct answer follows the wrong one."""

    def __post_init__(self) -> None:
        for name, value, right, good in self._checks():
            if not good:
                raise ValueError(f"{name} is {value!r}; must be {right}")

    def _checks(self) -> Iterable[tuple[str, object, str, bool]]:
        yield "address", self.address, "an address in 127.0.0.0/8, or ::1", _is_loopback(self.address)
        yield "port", self.port, "0 to 65535", 0 <= self.port <= 65535
        yield "offset", self.offset, "at most a year (s)", abs(self.offset) <= 366 * 86400
        for name in ("delay", "jitter"):
            value = getattr(self, name)
            yield name, value, "0 to 60 (s)", 0 <= value <= 60
        least = f"{-self.delay:g} to 60 (s), so that the delay towards the server is not negative"
        yield "asymmetry", self.asymmetry, least, -self.delay <= self.asymmetry <= 60
        yield "hold", self.hold, "at most a day (s)", abs(self.hold) <= 86400
        for name in ("loss", "kiss_share"):
            value = getattr(self, name)
            yield name, value, "0 to 1", 0 <= value <= 1
        yield "stratum", self.stratum, "0 to 255", 0 <= self.stratum <= 255
        yield "leap", self.leap, "0 to 3", 0 <= self.leap <= 3
        for name in ("root_delay", "root_dispersion"):
            value = getattr(self, name)
            yield name, value, "0 to 65535 (s)", 0 <= value <= 65535
        right = "an IPv4 address or up to four ASCII characters"
        yield "reference_id", self.reference_id, right, reference_octets(self.reference_id) is not None
        kiss_is_good = not self.kiss or (len(self.kiss) == 4 and self.kiss.isascii())
        yield "kiss", self.kiss, "empty, or four ASCII characters such as RATE", kiss_is_good


def reference_octets(text: str) -> bytes | None:
    """Return the four octets on the wire; None if the text is invalid."""
    try:
        return ipaddress.IPv4Address(text).packed
    except ValueError:
        return text.encode().ljust(4, b"\0") if text.isascii() and len(text) <= 4 else None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def encode_specs(specs: Iterable[ServerSpec]) -> bytes:
    """Encode a fleet as JSON, indented for people; fields with default values are omitted."""
    return msgspec.json.format(msgspec.json.encode(list(specs)), indent=2) + b"\n"


def decode_specs(text: bytes, source: str) -> tuple[ServerSpec, ...]:
    """Decode servers from JSON; ``source`` names it in messages. Raises SpecError."""
    try:
        specs = msgspec.json.decode(text, type=tuple[ServerSpec, ...])
    except msgspec.ValidationError as error:
        raise SpecError(f"{source}: {_explain(str(error), msgspec.json.decode(text))}") from error
    except msgspec.DecodeError as error:
        raise SpecError(f"{source}: not JSON: {error}") from error
    _refuse_doubles(specs, source)
    if not specs:
        raise SpecError(f"{source}: the list is empty; must be a list with at least one server")
    return specs


def read_specs(path: Path) -> tuple[ServerSpec, ...]:
    """Read servers from a fleet's file. Raises SpecError, also if the file cannot be read."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_specs(text, str(path))


def _refuse_doubles(specs: Iterable[ServerSpec], source: str) -> None:
    seen: dict[tuple[str, int], int] = {}
    for number, spec in enumerate(specs):
        first = seen.setdefault((spec.address, spec.port), number)
        if spec.port and first != number:
            reason = f"{spec.address} port {spec.port} is already used by server {first}"
            raise SpecError(f"{source}: server {number}: {reason}")


def _explain(reason: str, value: Any) -> str:
    """Return msgspec's reason, with the place in words and the value there."""
    reason, _, path = reason.partition(" - at `")
    words = []
    for index, name in re.findall(r"\[(\d+)\]|\.(\w+)", path):
        words.append(f"server {index}" if index else name)
        value = value[int(index)] if index else value[name]
    if reason.startswith("Invalid enum value"):
        reason += f"; must be one of {', '.join(Behaviour)}"
    shown = "" if isinstance(value, dict | list) else f" is {value!r}"
    return f"{', '.join(words) or 'the file'}{shown}: {reason}"
