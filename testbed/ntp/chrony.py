"""Run a real chronyd as NTP server on a loopback port, to compare our measurements with an independent server.

It serves this machine's clock, does not set it, and does not need root.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_REQUEST: Final = bytes([4 << 3 | 3]) + bytes(47)
_START_DEADLINE: Final = 10.0
_STOP_DEADLINE: Final = 5.0


class ChronyError(Exception):
    """chronyd is missing or did not answer; the message says which, and includes its output."""


@dataclass(frozen=True, slots=True)
class ChronyServer:
    """Address and stratum of a running chronyd."""

    address: str
    port: int
    stratum: int
    pid: int


def find_chronyd() -> Path:
    """Find the program. Raises ChronyError."""
    # The copy made by scripts/bootstrap comes first: Debian's AppArmor profile denies the installed one access to our
    # files. Its directory is not in a user's PATH on Debian.
    places = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", os.defpath), "/usr/sbin"])
    found = shutil.which("chronyd", path=places)
    if found is None:
        raise ChronyError(f"chronyd is in none of {places}; run scripts/bootstrap")
    return Path(found)


@contextlib.contextmanager
def chronyd(address: str = "127.0.0.1", port: int = 0, stratum: int = 3) -> Iterator[ChronyServer]:
    """Run a chronyd that answers on ``address``, within the context.

    ``port`` 0 selects a free one. With chronyd's default stratum (10), or any of at least 8, a server scores badly.
    Raises ChronyError.
    """
    port = port or _free_port(address)
    with tempfile.TemporaryDirectory(prefix="chronyd-") as directory:
        process = subprocess.Popen(
            _command(_configuration(Path(directory), address, port, stratum)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            _wait_until_it_answers(process, address, port)
            yield ChronyServer(address, port, stratum, process.pid)
        finally:
            _stop(process)


def _configuration(directory: Path, address: str, port: int, stratum: int) -> Path:
    directives = (
        f"local stratum {stratum}",
        f"port {port}",
        f"bindaddress {address}",
        "allow all",
        "cmdport 0",
        "bindcmdaddress /",
        f"pidfile {directory / 'chronyd.pid'}",
    )
    path = directory / "chrony.conf"
    path.write_text("".join(f"{directive}\n" for directive in directives))
    return path


def _command(configuration: Path) -> list[str]:
    # -d: in the foreground, logging to stderr; -x: no control of the clock; -U: run without root.
    return [str(find_chronyd()), "-d", "-x", "-U", "-u", _user(), "-f", str(configuration)]


def _user() -> str:
    """Return the user for chronyd, whose default user may not exist."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "root"  # a user without an entry, as in containers; has no effect without root's rights


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: str, port: int) -> None:
    deadline = time.monotonic() + _START_DEADLINE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _answers(address, port):
            return
    process.kill()
    said = process.communicate()[1].decode(errors="replace").strip()
    raise ChronyError(f"chronyd does not answer on {address} port {port}: {said}")


def _answers(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        sock.connect((address, port))
        try:
            sock.send(_REQUEST)
            return len(sock.recv(512)) >= len(_REQUEST)
        except TimeoutError:
            return False
        except ConnectionRefusedError:
            # Not listening yet: without the pause, this would be a busy loop.
            time.sleep(0.02)
            return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=_STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _free_port(address: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])
