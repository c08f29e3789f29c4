"""Check the way from this host to the pool, step by step, for ``ntppool-agent api ok``.

It reads what the agent has, and changes nothing, neither here nor in a running agent.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.api_client import Answer, ApiClient, ApiUnreachable, InvalidUrl
from agent.api_messages import InvalidAnswer, decode_token
from agent.broker_check import AFTER_CONNECTING, check_broker
from agent.certificate import CertificateError, is_for, validity
from agent.check_steps import (
    SETUP,
    Step,
    Tried,
    answer_step,
    certificate_step,
    clock_step,
    configuration_step,
    connection_step,
    key_step,
    name_step,
    tls_step,
    token_problem,
    token_step,
)
from agent.hints import complete
from agent.inspection import Inspection
from agent.local_addresses import parse_local_addresses
from agent.login import Login
from agent.place import look
from agent.renew import TOKEN_PATH, client_of
from agent.settings import AgentSettings, wanted_protocols
from agent.setup import CONFIG_PATH
from agent.setup_words import CLOCK_TOLERANCE
from agent.state import Api, NotSetUp, StateDirectory, StateError, StateFile
from runtime.log import keep_out_of_logs, without_secrets
from schema.names import IpVersion
from schema.topics import Topics

ANSWER_WITHIN: Final = 20.0
"""Seconds for each answer of the API."""

_OF_API: Final = ("name", "connection", "TLS", "answer", "clock", "key", "configuration")


def check_api(settings: AgentSettings, environ: Mapping[str, str], done: Callable[[Step], object]) -> list[Step]:
    """Check each step, and return them all; those after a failure that need it are skipped.

    Args:
        done: called with each step as soon as it is known.

    Raises:
        ConfigurationError: a setting is invalid.
    """
    return ApiCheck(
        look(settings, environ), wanted_protocols(settings), parse_local_addresses(settings.api_bind), done
    ).run()


class ApiCheck:
    """One run of the check."""

    def __init__(
        self,
        found: Inspection,
        protocols: tuple[IpVersion, ...],
        local: dict[IpVersion, str],
        done: Callable[[Step], object],
    ) -> None:
        self._found = found
        self._directory = StateDirectory(Path(found.path).parent, found.env)
        self._protocols = protocols
        self._local = local
        self._done = done
        self._steps: list[Step] = []
        self._now: Callable[[], float] = time.time
        self._token: str | None = None
        self._shown = "token"

    def run(self) -> list[Step]:
        """Check everything. A failure at the API does not keep the broker from being checked."""
        file = self._state()
        if file is None:
            return self._steps
        self._check_token(self._usable_api(file), file)
        login = self._login(file)
        if login is not None:
            self._check_broker(login)
        return self._steps

    def _add(self, step: Step) -> bool:
        """Record a step; return whether the next ones make sense."""
        detail = without_secrets(complete(step.detail, self._directory))  # the API may repeat what it was sent
        step = replace(step, detail=detail, help=complete(step.help, self._directory))
        self._steps.append(step)
        self._done(step)
        return step.verdict != "failed"

    def _skip(self, why: str, *names: str) -> None:
        for name in names:
            self._add(Step(name, "skipped", why))

    # ---- this host -------------------------------------------------------------------------------------------------

    def _state(self) -> StateFile | None:
        path = self._found.path
        if self._found.closed_by is not None:
            self._add(Step("state", "failed", f"only {self._found.closed_by} may read {path}", "use sudo"))
            return None
        if not self._found.set_up:
            self._add(Step("state", "failed", f"{path}: this host is not set up for {self._found.env}", SETUP))
            return None
        try:
            file = self._directory.read_file()
        except StateError as error:
            self._add(Step("state", "failed", str(error), f"repair the file, or remove it and {SETUP}"))
            return None
        if file.api is not None:
            keep_out_of_logs(file.api.key)
        runs = (
            "the agent does not run" if self._found.process is None else f"the agent is process {self._found.process}"
        )
        self._add(Step("state", "ok", f"{path}; {runs}"))
        if self._found.settings_differ is not None:
            self._add(Step("settings", "note", self._found.settings_differ))
        return file

    # ---- the API ---------------------------------------------------------------------------------------------------

    def _usable_api(self, file: StateFile) -> ApiClient | None:
        """Check the API; return a client if it gives what we ask for."""
        if file.api is None:
            self._add(Step("key", "note", "no API key: this monitor was provisioned by hand"))
            return None
        client = self._client(file.api)
        usable = client is not None and self._api(client, file, file.api.key)
        known = {step.name for step in self._steps}
        self._skip("after the failure above", *(name for name in _OF_API if name not in known))
        return client if usable else None

    def _client(self, api: Api) -> ApiClient | None:
        try:
            return client_of(api, self._local, seconds=ANSWER_WITHIN)
        except InvalidUrl as error:
            self._add(Step("name", "failed", str(error), f"{SETUP} with --api"))
            return None

    def _api(self, client: ApiClient, file: StateFile, key: str) -> bool:
        """Check the API; return whether it gives what we ask for."""
        addresses, problems = resolve(client, self._protocols)
        if not self._add(name_step(client.host, addresses, problems)):
            return False
        tried = {ipv: _request(client, ipv, key) for ipv in addresses}
        if not self._add(connection_step(tried, file.protocols)):
            return False
        if not self._add(tls_step(tried, encrypted=client.tls)) and not _answers(tried):
            return False
        step, answer = answer_step(tried)
        if not self._add(step) or answer is None:
            return False
        self._add(clock_step(answer))
        self._use_clock(answer)
        return self._add(key_step(answer)) and self._add(configuration_step(answer, self._found.env, file.name))

    def _use_clock(self, answer: Answer) -> None:
        skew = answer.skew()
        ahead = 0.0 if skew is None or abs(skew) < CLOCK_TOLERANCE else skew
        self._now = lambda: time.time() - ahead

    # ---- token and certificate -------------------------------------------------------------------------------------

    def _check_token(self, client: ApiClient | None, file: StateFile) -> None:
        try:
            stored = self._directory.read_token()
            problem = token_problem(stored, file.name, self._now())
        except StateError as error:
            stored, problem = "", str(error)
        good = stored if not problem else None
        asked = None if good is not None or client is None or file.api is None else _ask_token(client, file.api.key)
        self._token = good
        if isinstance(asked, Answer) and asked.status == 200:
            with suppress(InvalidAnswer):
                self._token = decode_token(asked.body).token
                self._shown = "the token that the API has just given for this check"
                keep_out_of_logs(self._token)
        missing = not self._directory.token_file.exists()
        self._add(token_step(good, problem, asked, running=self._found.process is not None, missing=missing))

    def _login(self, file: StateFile) -> Login | None:
        """Check the certificate, and return the files for the broker."""
        path = self._directory.certificate_file
        problem, times = "", None
        if path.exists():
            try:
                times = validity(path)
                self._directory.check_key()
                if file.name is not None and not is_for(path.read_text(encoding="ascii"), file.name):
                    problem = f"{path}: is not for {file.name}"
            except (CertificateError, OSError, ValueError) as error:
                problem = str(error)
        self._add(certificate_step(times, problem, self._now(), lost=bool(file.fetched.certificate)))
        try:
            return Login(self._directory, self._directory.read_state())
        except NotSetUp as error:
            self._add(Step("broker", "skipped", f"{error}; start the agent, which asks for it"))
        except StateError as error:
            self._add(Step("broker", "failed", str(error), SETUP))
        self._skip("without a broker", *AFTER_CONNECTING)
        return None

    # ---- the broker ------------------------------------------------------------------------------------------------

    def _check_broker(self, login: Login) -> None:
        if self._token is None:
            self._skip("without a token", "broker", *AFTER_CONNECTING)
            return
        topic = Topics(self._found.env).api_test(login.state.name)
        asyncio.run(check_broker(login, self._token, topic, self._add, self._shown))


def resolve(
    client: ApiClient, protocols: tuple[IpVersion, ...]
) -> tuple[dict[IpVersion, list[str]], dict[IpVersion, str]]:
    """Return the API's addresses by protocol, and the reason for each protocol without any."""
    addresses: dict[IpVersion, list[str]] = {}
    problems: dict[IpVersion, str] = {}
    for ipv in protocols:
        try:
            addresses[ipv] = list(dict.fromkeys(str(found[4][0]) for found in client.resolve(ipv)))
        except ApiUnreachable as error:
            problems[ipv] = str(error).rpartition(": ")[2]
    return addresses, problems


def _request(client: ApiClient, ipv: IpVersion, key: str) -> Answer | ApiUnreachable:
    try:
        return client.request("GET", CONFIG_PATH, family=ipv, key=key)
    except ApiUnreachable as error:
        return error


def _ask_token(client: ApiClient, key: str) -> Answer | ApiUnreachable:
    headers = {"Content-Type": "application/json"}
    try:
        return client.request("POST", TOKEN_PATH, key=key, body=b"{}", headers=headers)
    except ApiUnreachable as error:
        return error


def _answers(tried: Tried) -> bool:
    return any(isinstance(outcome, Answer) for outcome in tried.values())
