"""Renew what the agent has from the API: ``python -m agent.renew STATE-BASE ENVIRONMENT``.

The daemon starts this as a child process, so that HTTP costs it no memory. The child fetches the configuration, and
a token and a certificate if less than a third of their lives is left. It tells the daemon only by the files that it
replaces, in an order in which a crash at any point leaves a working agent: the broker's CA, the token, the certificate,
then ``state.json``.
"""

import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from agent.api_client import Answer, ApiClient, ApiUnreachable, InvalidUrl
from agent.api_messages import ConfigAnswer, InvalidAnswer, decode_config, decode_token
from agent.certificate import CertificateError, is_for, validity
from agent.certificate_request import CertificateFiles, NoRequest
from agent.files import write_durably
from agent.renewal_file import Kind, Outcome, write_outcome
from agent.replacement import finish_replacement
from agent.setup import CLOCK_TOLERANCE, CONFIG_PATH, clock_line
from agent.state import Api, Broker, Lock, Registered, StateDirectory, StateError, write_token, writing_state
from runtime.log import keep_out_of_logs
from runtime.mqtt.token_life import life_of
from schema.names import ENVIRONMENTS

log = logging.getLogger(__name__)

TOKEN_PATH: Final = "/monitor/api/token"  # noqa: S105  # a path
CERTIFICATE_PATH: Final = "/monitor/api/certificate"
_GONE: Final = "deleted"


class _Ended(Exception):
    """The renewal cannot go on."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Renewal:
    """One renewal.

    Args:
        make_client: returns a client for this API.
    """

    def __init__(self, directory: StateDirectory, make_client: Callable[[Api], ApiClient]) -> None:
        self._directory = directory
        self._make_client = make_client
        self._files = CertificateFiles(directory)
        self._clock = ""
        self._ahead = 0.0

    def run(self) -> Outcome:
        """Renew what is due and return the outcome.

        Raises:
            StateError: another renewal is in progress.
        """
        with Lock(self._directory, self._directory.renewal_lock_file, "another renewal", seconds=5):
            kind: Kind = "ok"
            text = ""
            try:
                self._renew()
            except _Ended as ended:
                kind, text = ended.kind, str(ended)
            except ApiUnreachable as error:
                kind, text = "unreachable", str(error)
            except (InvalidAnswer, NoRequest, InvalidUrl, StateError) as error:
                kind, text = "failed", str(error)
            except OSError as error:
                kind, text = "failed", f"{self._directory.path}: {error.strerror or error}"
            return Outcome(at=datetime.now(UTC), kind=kind, text=text, clock=self._clock)

    def _renew(self) -> None:
        finish_replacement(self._directory)
        file = self._directory.read_file()
        if file.api is None:
            raise _Ended("failed", "this monitor has not been set up")
        keep_out_of_logs(file.api.key)
        self._api, self._client = file.api, self._make_client(file.api)
        config = self._fetch_config()
        broker = self._broker(config) or file.broker
        if broker is None:
            raise _Ended("waiting", f"{self._api.url}: has not named a broker yet")
        if self._token_is_due(config.tls_name):
            self._renew_token()
        if self._certificate_is_due(config.tls_name):
            self._renew_certificate(config.tls_name)
        self._write_state(config, broker)

    def _ask(
        self, method: Literal["GET", "POST"], path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> Answer:
        headers = {} if body is None else {"Content-Type": kind}
        answer = self._client.request(method, path, key=self._api.key, body=body, headers=headers)
        self._compare_clocks(answer)
        if answer.status == 401:
            raise _Ended("refused", f"{self._api.url} refuses the API key: run 'ntppool-agent setup' for a new one")
        if answer.status >= 500:
            raise _Ended("unreachable", f"{self._api.url}{path}: HTTP {answer.status}")
        return answer

    def _compare_clocks(self, answer: Answer) -> None:
        ahead = answer.skew()
        if ahead is not None and abs(ahead) >= CLOCK_TOLERANCE:
            self._clock, self._ahead = clock_line(ahead), ahead

    def _now(self) -> float:
        """Return the time by the API's clock: a wrong clock of this host must not make everything seem expired."""
        return time.time() - self._ahead

    # ---- the configuration -----------------------------------------------------------------------------------------

    def _fetch_config(self) -> ConfigAnswer:
        answer = self._ask("GET", CONFIG_PATH)
        if answer.status != 200:
            raise _Ended("failed", f"{self._api.url}{CONFIG_PATH}: HTTP {answer.status} {answer.text}")
        config = decode_config(answer.body, self._directory.env)
        statuses = {protocol.status for protocol in config.protocols.values()}
        if statuses == {_GONE}:
            raise _Ended("refused", f"the pool has deleted the monitor {config.tls_name}")
        return config

    def _broker(self, config: ConfigAnswer) -> Broker | None:
        """Return the broker, whose certificates to trust are then on disk."""
        if config.broker is None:
            return None
        if not config.broker.ca:
            return Broker(host=config.broker.host, port=config.broker.port)
        content = config.broker.ca.encode()
        ca_file = self._directory.broker_ca_file
        if not ca_file.exists() or ca_file.read_bytes() != content:
            write_durably(ca_file, content)
        return Broker(host=config.broker.host, port=config.broker.port, ca_file=ca_file.name)

    def _write_state(self, config: ConfigAnswer, broker: Broker) -> None:
        protocols = {ipv: Registered(ip=p.ip or "", status=p.status) for ipv, p in config.protocols.items()}
        with writing_state(self._directory):
            former = self._directory.read_file()  # setup may have written a new key meanwhile
            if former.api != self._api:
                return
            new = msgspec.structs.replace(former, name=config.tls_name, broker=broker, protocols=protocols)
            if new != former:
                self._directory.write_file(new)

    # ---- token and certificate -------------------------------------------------------------------------------------

    def _token_is_due(self, name: str) -> bool:
        try:
            life = life_of(self._directory.read_token())
        except StateError:
            return True
        return life is None or life.subject != name or _is_due(self._now(), life.issued, life.expires)

    def _renew_token(self) -> None:
        answer = self._ask("POST", TOKEN_PATH, b"{}")
        if answer.status != 200:
            raise _Ended("waiting", f"the pool gives this monitor no token: {answer.text or f'HTTP {answer.status}'}")
        token = decode_token(answer.body)
        keep_out_of_logs(token.token)
        write_token(self._directory, token.token)

    def _certificate_is_due(self, name: str) -> bool:
        path = self._directory.certificate_file
        try:
            begins, ends = validity(path)
            ours = is_for(path.read_text(encoding="ascii"), name) and self._directory.key_file.exists()
        except (CertificateError, OSError, ValueError):
            return True
        return not ours or _is_due(self._now(), begins.timestamp(), ends.timestamp())

    def _renew_certificate(self, name: str) -> None:
        request = self._files.request(name)
        answer = self._ask("POST", CERTIFICATE_PATH, request.encode("ascii"), "application/x-pem-file")
        if answer.status == 404:
            return  # this pool has no certificates for agents
        if answer.status != 200:
            raise _Ended("waiting", f"the pool gives no certificate: {answer.text or f'HTTP {answer.status}'}")
        self._files.install(answer.body, name)


def _is_due(now: float, begins: float, ends: float) -> bool:
    """Return whether less than a third of the life is left."""
    return ends - now < (ends - begins) / 3


def client_of(api: Api) -> ApiClient:
    """Return the client for the API that this host is registered with.

    Raises:
        InvalidUrl: its URL is invalid.
    """
    return ApiClient(api.url, None if api.ca_file is None else Path(api.ca_file))


def main() -> None:
    """Renew, tell the outcome, and exit: 0, or 1 if something could not be renewed."""
    if len(sys.argv) != 3 or sys.argv[2] not in ENVIRONMENTS:
        sys.exit("usage: python -m agent.renew STATE-BASE ENVIRONMENT")
    directory = StateDirectory(Path(sys.argv[1]), sys.argv[2])
    try:
        outcome = Renewal(directory, client_of).run()
    except StateError as error:  # another one is in progress and tells
        sys.exit(str(error))
    with suppress(OSError):  # the daemon warns about a disk that it cannot write to
        write_outcome(directory, outcome)
    sys.exit(0 if outcome.kind == "ok" else 1)


if __name__ == "__main__":
    main()
