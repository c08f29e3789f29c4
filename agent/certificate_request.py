"""Make a key and a certificate request with the ``openssl`` program.

The agent has no cryptography package: one would need a compiler on some hosts, and 10 MB of memory on all. Debian's
``ca-certificates``, which any TLS client needs, brings the program. Arithmetic of our own in Python would not take
constant time, and would be one more piece of cryptography to trust.
"""

import os
import ssl
import subprocess
from pathlib import Path
from typing import Final

from agent.api_messages import InvalidAnswer, decode_certificate
from agent.certificate import is_for
from agent.files import write_durably
from agent.replacement import finish_replacement
from agent.state import StateDirectory

_SECONDS: Final = 30


class NoRequest(Exception):
    """No key or request can be made on this host; the message says why."""


class CertificateFiles:
    """The files of a renewal in progress, besides those in use. All of them are complete or absent.

    A new key and its request stay until the certificate is there: the API answers a repeated request with the same
    certificate. Key and certificate in use are two files, so they are replaced one after the other; as long as
    ``cert.new.pem`` exists, :func:`agent.replacement.finish_replacement` can do the rest.
    """

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory
        self.new_key = directory.new_key_file
        self.new_request = directory.new_request_file
        self.new_certificate = directory.new_certificate_file

    def request(self, name: str) -> str:
        """Return the certificate request for this name, with a new key, or the one of a renewal in progress.

        Raises:
            NoRequest: the program is missing or failed.
            OSError: a file cannot be written.
        """
        stored = _text(self.new_request)
        first, _, request = stored.partition("\n")
        if first == name and request and self.new_key.exists():
            return request
        self.new_request.unlink(missing_ok=True)
        write_durably(self.new_key, _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"))
        # The name is checked, so it cannot be taken for more of the configuration.
        names = ["-subj", f"/CN={name}" if len(name) <= 64 else "/", "-addext", f"subjectAltName=DNS:{name}"]
        made = _openssl("req", "-new", "-sha256", "-key", str(self.new_key), *names)
        write_durably(self.new_request, f"{name}\n".encode(), made)
        return made.decode("ascii")

    def discard_request(self) -> None:
        """Forget a request that the API does not accept, so that the next renewal makes a new one.

        Raises:
            OSError: the file cannot be removed.
        """
        self.new_request.unlink(missing_ok=True)

    def install(self, answer: bytes, name: str) -> None:
        """Put the certificate of an answer to use, with its key.

        Raises:
            InvalidAnswer: it is unusable, or not for this key and name.
            OSError: a file cannot be written.
        """
        chain = decode_certificate(answer)
        if not is_for(chain, name):
            raise InvalidAnswer("the certificate is for another name")
        checked = self._directory.path / "cert.checked.pem"
        write_durably(checked, chain.encode("ascii"))
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(checked, self.new_key, password="")
        except (OSError, ValueError):
            checked.unlink(missing_ok=True)
            raise InvalidAnswer("the certificate is not for our key") from None
        checked.replace(self.new_certificate)
        finish_replacement(self._directory)


def _openssl(*arguments: str) -> bytes:
    environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["openssl", *arguments], capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS, env=environ
        )
    except FileNotFoundError:
        raise NoRequest("the program openssl is missing: install the package openssl") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoRequest(f"openssl {arguments[0]}: {type(error).__name__}") from None
    if done.returncode != 0:
        raise NoRequest(f"openssl {arguments[0]} failed: {done.stderr.decode('utf-8', 'replace')[:200].strip()}")
    return done.stdout


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
