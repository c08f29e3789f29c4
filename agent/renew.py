"""Renew what the agent has from the API: ``python -m agent.renew STATE-BASE ENVIRONMENT``.

The daemon starts this as a child process, so that HTTP costs it no memory. The child fetches the configuration, and a
token and a certificate if less than a third of their lives is left, or if they were fetched with another API key. It
tells the daemon only by the files that it replaces, each in an order in which a crash at any point leaves a working
agent. A monitor that keeps its name follows a moved broker at once, even if its certificate cannot be renewed now; a
new name is taken up when its token and its certificate are there.
"""

import argparse
import hashlib
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from agent.api_client import NOT_MODIFIED, REQUEST_SECONDS, Answer, ApiClient, ApiUnreachable, InvalidUrl
from agent.api_messages import BrokerAnswer, ConfigAnswer, InvalidAnswer, decode_config, decode_token
from agent.certificate import CertificateError, is_for, validity
from agent.certificate_request import CertificateFiles, NoRequest
from agent.files import write_durably
from agent.hints import complete
from agent.local_addresses import parse_local_addresses
from agent.output import print_crash
from agent.renewal_file import Kind, Outcome, write_outcome
from agent.replacement import finish_replacement
from agent.setup import CONFIG_PATH
from agent.setup_words import CLOCK_TOLERANCE, address_line, clock_line
from agent.state import (
    Api,
    Broker,
    Fetched,
    Lock,
    Registered,
    StateDirectory,
    StateError,
    StateFile,
    write_token,
    writing_state,
)
from agent.stored_configuration import Configuration, stored_broker_ca, stored_configuration
from runtime.log import keep_out_of_logs, without_secrets
from runtime.loopback import is_loopback
from runtime.mqtt.token_life import life_of
from schema.names import ENVIRONMENTS, IpVersion

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
        again: fetch token and certificate even if they are not due, since the broker refuses them.
    """

    def __init__(
        self, directory: StateDirectory, make_client: Callable[[Api], ApiClient], *, again: bool = False
    ) -> None:
        self._directory = directory
        self._make_client = make_client
        self._again = again
        self._files = CertificateFiles(directory)
        self._clock = self._address = ""
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
            # An API that repeats what it was sent must not bring a secret into files and logs.
            return Outcome(
                at=datetime.now(UTC),
                kind=kind,
                text=without_secrets(complete(text, self._directory)),
                clock=self._clock,
                address=self._address,
                due_in=self._seconds_until_due() if kind == "ok" else None,
                life=min((ends - begins for begins, ends in self._lives()), default=None),
            )

    def _renew(self) -> None:
        finish_replacement(self._directory)
        file = self._directory.read_file()
        if file.api is None:
            raise _Ended("failed", "this monitor has not been set up")
        keep_out_of_logs(file.api.key)
        self._api, self._client = file.api, self._make_client(file.api)
        found = self._configuration(file)
        if file.name == found.name:
            self._store(found)
        self._renew_credentials(file, found.name)
        self._store(found)

    def _renew_credentials(self, file: StateFile, name: str) -> None:
        """Renew token and certificate of this name; a new name's token replaces the former one last."""
        key = digest_of_key(self._api.key)
        token = self._new_token() if self._token_is_due(name, same_key=file.fetched.token == key) else None
        renamed = file.name not in (None, name)
        if token is not None and not renamed:
            self._keep_token(token, key)
        if self._certificate_is_due(name, same_key=file.fetched.certificate == key) and self._renew_certificate(name):
            self._change(lambda former: _with(former, certificate=key))
        if token is not None and renamed:
            self._keep_token(token, key)

    def _ask(
        self,
        method: Literal["GET", "POST"],
        path: str,
        body: bytes | None = None,
        kind: str = "application/json",
        etag: str = "",
    ) -> Answer:
        headers = {} if body is None else {"Content-Type": kind}
        if etag:
            headers["If-None-Match"] = etag
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

    def _configuration(self, file: StateFile) -> Configuration:
        former = stored_configuration(self._directory, file)
        answer = self._ask("GET", CONFIG_PATH, etag="" if former is None else former.etag)
        if former is not None and answer.status == NOT_MODIFIED:
            self._compare_addresses(answer, former)
            return former
        if answer.status != 200:
            raise _Ended("failed", f"{self._api.url}{CONFIG_PATH}: HTTP {answer.status} {answer.text}")
        config = decode_config(answer.body, self._directory.env)
        statuses = {protocol.status for protocol in config.protocols.values()}
        if statuses == {_GONE}:
            raise _Ended("refused", f"the pool has deleted the monitor {config.tls_name}")
        found = self._usable(config, file, answer.etag)
        self._compare_addresses(answer, found)
        return found

    def _compare_addresses(self, answer: Answer, found: Configuration) -> None:
        self._address = address_line(answer.seen_as, {ipv: one.ip for ipv, one in found.protocols.items()})

    def _usable(self, config: ConfigAnswer, file: StateFile, etag: str) -> Configuration:
        if config.broker is None:
            if file.broker is None:
                raise _Ended("waiting", f"{self._api.url}: has not named a broker yet")
            broker, ca = file.broker, stored_broker_ca(self._directory, file.broker)
        else:
            broker, ca = self._broker(config.broker)
        protocols = {ipv: Registered(ip=p.ip or "", status=p.status) for ipv, p in config.protocols.items()}
        return Configuration(config.tls_name, broker, protocols, ca, etag)

    def _broker(self, answer: BrokerAnswer) -> tuple[Broker, bytes | None]:
        if answer.ca:
            ca_file = self._directory.broker_ca_file.name
            return Broker(host=answer.host, port=answer.port, ca_file=ca_file), answer.ca.encode()
        if not is_loopback(answer.host):  # stored, it would keep the daemon from starting
            raise InvalidAnswer(f"broker.ca: is missing, and plain TCP to {answer.host} is not allowed")
        return Broker(host=answer.host, port=answer.port), None

    def _store(self, found: Configuration) -> None:
        self._store_broker_ca(found)

        def change(former: StateFile) -> StateFile:
            changed = _with(former, etag=found.etag, config=found.digest if found.etag else "")
            return msgspec.structs.replace(changed, name=found.name, broker=found.broker, protocols=found.protocols)

        self._change(change)

    def _store_broker_ca(self, found: Configuration) -> None:
        path = self._directory.broker_ca_file
        if found.broker_ca is None or found.broker.ca_file != path.name:
            return  # not named by the API
        if not path.exists() or path.read_bytes() != found.broker_ca:
            write_durably(path, found.broker_ca)

    def _change(self, change: Callable[[StateFile], StateFile]) -> None:
        """Change ``state.json``, unless setup has written another key meanwhile."""
        with writing_state(self._directory):
            former = self._directory.read_file()
            if former.api != self._api:
                return
            new = change(former)
            if new != former:
                self._directory.write_file(new)

    # ---- token and certificate -------------------------------------------------------------------------------------

    def _seconds_until_due(self) -> float | None:
        """Return the seconds until the first of both is due."""
        dates = [_due_at(begins, ends) for begins, ends in self._lives()]
        return min(dates) - self._now() if dates else None

    def _lives(self) -> list[tuple[float, float]]:
        """Return when the token and the certificate begin and end, in seconds of Unix time; fewer if there are none."""
        found = []
        with suppress(StateError):
            if (life := life_of(self._directory.read_token())) is not None:
                found.append((life.issued, life.expires))
        with suppress(CertificateError):
            begins, ends = validity(self._directory.certificate_file)
            found.append((begins.timestamp(), ends.timestamp()))
        return found

    def _token_is_due(self, name: str, *, same_key: bool) -> bool:
        if self._again or not same_key:
            return True
        try:
            life = life_of(self._directory.read_token())
        except StateError:
            return True
        return life is None or life.subject != name or _is_due(self._now(), life.issued, life.expires)

    def _new_token(self) -> str:
        answer = self._ask("POST", TOKEN_PATH, b"{}")
        if answer.status != 200:
            raise _Ended("waiting", f"the pool gives this monitor no token: {answer.text or f'HTTP {answer.status}'}")
        token = decode_token(answer.body).token
        keep_out_of_logs(token)
        return token

    def _keep_token(self, token: str, key: str) -> None:
        write_token(self._directory, token)
        self._change(lambda former: _with(former, token=key))

    def _certificate_is_due(self, name: str, *, same_key: bool) -> bool:
        if self._again or not same_key:
            return True
        path = self._directory.certificate_file
        try:
            begins, ends = validity(path)
            ours = is_for(path.read_text(encoding="ascii"), name) and self._directory.key_file.exists()
        except (CertificateError, OSError, ValueError):
            return True
        return not ours or _is_due(self._now(), begins.timestamp(), ends.timestamp())

    def _renew_certificate(self, name: str) -> bool:
        """Renew the certificate; return whether there is one."""
        request = self._files.request(name)
        answer = self._ask("POST", CERTIFICATE_PATH, request.encode("ascii"), "application/x-pem-file")
        if answer.status == 404:
            return False  # this pool has no certificates for agents
        if answer.status in (400, 422):
            self._files.discard_request()  # it may be damaged
        if answer.status != 200:
            raise _Ended("waiting", f"the pool gives no certificate: {answer.text or f'HTTP {answer.status}'}")
        self._files.install(answer.body, name)
        return True


def digest_of_key(key: str) -> str:
    """Return a digest that tells one API key from another. The keys are random, so it discloses nothing."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _with(file: StateFile, **fields: str) -> StateFile:
    fetched: Fetched = msgspec.structs.replace(file.fetched, **fields)
    return msgspec.structs.replace(file, fetched=fetched)


def _due_at(begins: float, ends: float) -> float:
    """Return the time at which a third of the life is left."""
    return ends - (ends - begins) / 3


def _is_due(now: float, begins: float, ends: float) -> bool:
    return now >= _due_at(begins, ends)


def client_of(api: Api, local: Mapping[IpVersion, str] | None = None, *, seconds: float = REQUEST_SECONDS) -> ApiClient:
    """Return the client for the API that this host is registered with.

    Raises:
        InvalidUrl: its URL is invalid.
    """
    return ApiClient(api.url, None if api.ca_file is None else Path(api.ca_file), local=local, seconds=seconds)


def main() -> None:
    """Renew, tell the outcome, and exit: 0, or 1 if something could not be renewed."""
    arguments = argparse.ArgumentParser(prog="python -m agent.renew", description="Renew what the agent has.")
    arguments.add_argument("base", type=Path, help="the parent of the state directories")
    arguments.add_argument("env", choices=ENVIRONMENTS)
    arguments.add_argument("--local", default={}, type=parse_local_addresses, help="addresses to connect from")
    arguments.add_argument("--again", action="store_true", help="renew token and certificate even if they are not due")
    given = arguments.parse_args()
    directory = StateDirectory(given.base, given.env)
    try:
        outcome = Renewal(directory, lambda api: client_of(api, given.local), again=given.again).run()
    except StateError as error:  # another one is in progress and tells
        sys.exit(str(error))
    except Exception as error:
        print_crash(error)
        sys.exit(1)
    with suppress(OSError):  # the daemon notices that there is no outcome
        write_outcome(directory, outcome)
    sys.exit(0 if outcome.kind == "ok" else 1)


if __name__ == "__main__":
    main()
