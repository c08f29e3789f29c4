"""Set up this host as a monitor: register it, wait until somebody confirms it, and store the API key.

Whatever is interrupted can be run again: the registration is on disk before its first request, and the key before the
registration is forgotten.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import msgspec

from agent.api_client import Answer, ApiClient, ApiUnreachable
from agent.api_messages import (
    ConfigAnswer,
    InvalidAnswer,
    RegistrationAnswer,
    decode_config,
    decode_registration,
)
from agent.output import Failed, Progress
from agent.registration import Registration, begin_or_go_on, end
from agent.setup_words import CLOCK_TOLERANCE, changes, clock_line
from agent.state import Api, Fetched, StateDirectory, StateFile, running_process, writing_state
from agent.system import SYSTEM, for_environment
from runtime.durations import duration_text
from runtime.log import keep_out_of_logs, without_secrets
from schema.names import IpVersion

REGISTRATION_PATH: Final = "/monitor/api/registration"
CONFIG_PATH: Final = "/monitor/api/config"

POLL_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 10.0
"""Seconds to wait after a failure of the API or the network."""


_TOO_SLOW: Final = 408
_ABOUT_THE_REGISTRATION: Final = frozenset({200, 400, 403, 409, 410})
"""Statuses of the API's last word on a registration. Any other one is about the request, or comes from a proxy: the
registration may be confirmed still, or has been, and the next run goes on with it."""


class SetupFailed(Failed):
    """``setup`` cannot go on."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The times of waiting, in seconds."""

    first: float = 1.0
    """The first poll; the following ones become rarer, to one in ``poll``."""
    poll: float = POLL_SECONDS
    retry: float = RETRY_SECONDS


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the person asked for."""

    hostname: str
    account: str
    protocols: Sequence[IpVersion]


class Setup:
    """One run of ``setup``. The caller holds the directory's lock for it.

    Args:
        say: shows a line to the person.
        picture: shows the address to open as a picture, if that is wanted.
    """

    def __init__(
        self,
        directory: StateDirectory,
        api: ApiClient,
        wanted: Wanted,
        say: Callable[[str], object],
        pace: Pace = Pace(),  # frozen
        picture: Callable[[str], object] | None = None,
    ) -> None:
        self._directory = directory
        self._api = api
        self._wanted = wanted
        self._show = say
        self._pace = pace
        self._picture = picture
        self._former = directory.read_file()
        self._key = self._former_key()
        self._known: ConfigAnswer | None = None
        self._clock_reported = False
        self._progress = Progress()

    def run(self) -> None:
        """Register, wait for the confirmation, store the key, and say what happens next.

        Raises:
            SetupFailed: see the message.
            StateError: the state directory cannot be used.
        """
        try:
            self._run()
        finally:
            self._progress.clear()  # an error must not be appended to it

    def _run(self) -> None:
        self._check_former_key()
        registration, again = begin_or_go_on(
            self._directory, self._api.url, self._wanted.hostname, self._wanted.account
        )
        keep_out_of_logs(registration.id)
        if again:
            self._say("going on with the registration that an earlier run has begun")
        key = self._register(registration)
        self._store(registration, key)
        end(self._directory)
        self._finish(key)

    def _say(self, line: str) -> None:
        self._progress.clear()
        self._show(line)

    # ---- the key that we have --------------------------------------------------------------------------------------

    def _former_key(self) -> str | None:
        """Return the key for this API; one for another API must not be shown to this one."""
        api = self._former.api
        if api is None or api.url != self._api.url:
            return None
        keep_out_of_logs(api.key)
        return api.key

    def _check_former_key(self) -> None:
        if self._key is None:
            return
        answer = self._until_answered(lambda: self._api.request("GET", CONFIG_PATH, key=self._key))
        if answer.status == 401:
            self._say("the former API key is not valid any more; registering anew")
            self._key = None
        elif answer.status == 200:
            try:
                self._known = self._config(answer)
            except SetupFailed as unusable:  # a new registration may mend it
                self._say(str(unusable))

    def _config(self, answer: Answer) -> ConfigAnswer:
        try:
            return decode_config(answer.body, self._directory.env)
        except InvalidAnswer as error:
            raise SetupFailed(f"{self._api.url}: its configuration is unusable: {error}") from None

    # ---- registering -----------------------------------------------------------------------------------------------

    def _register(self, registration: Registration) -> str:
        """Show the API our addresses, then poll it until there is a key."""
        shown: list[IpVersion] = []
        last: RegistrationAnswer | None = None
        for ipv in self._wanted.protocols:
            try:
                answer = self._judge(registration, self._post(registration, [ipv], skip_missing=True))
            except _NoSuchProtocol as missing:
                self._say(f"IP{ipv} is left out: {missing}; run setup again to add it")
                continue
            if isinstance(answer, str):
                return answer
            shown.append(ipv)
            last = answer
        if last is None:
            raise SetupFailed(f"{self._api.url} cannot be reached; check the network, the address and the firewall")
        return self._poll(registration, last, shown)

    def _poll(self, registration: Registration, last: RegistrationAnswer, protocols: Sequence[IpVersion]) -> str:
        shown, began, pause = "", time.monotonic(), self._pace.first
        while True:
            if last.url and last.url != shown:
                shown = last.url
                self._show_address(shown)
            self._progress.show(f"waiting for the confirmation ({duration_text(int(time.monotonic() - began))})")
            time.sleep(pause)
            pause = min(self._pace.poll, 1.3 * pause)
            answer = self._judge(registration, self._post(registration, protocols))
            if isinstance(answer, str):
                return answer
            last = answer

    def _show_address(self, url: str) -> None:
        self._say("To confirm this monitor, open this address in a browser, on any computer:")
        self._say(f"  {url}")
        if self._picture is not None:
            self._picture(url)

    def _post(
        self, registration: Registration, protocols: Sequence[IpVersion], *, skip_missing: bool = False
    ) -> Answer:
        """Send the request of this registration.

        Args:
            protocols: by which the API knows us; after a failure, the next one is tried.
            skip_missing: a protocol that does not reach the API is not tried again.

        Raises:
            _NoSuchProtocol: the API cannot be reached by this protocol.
        """
        fields = {"a": registration.account, "hostname": registration.hostname, "env": self._directory.env}
        body = urlencode({name: value for name, value in fields.items() if value}).encode()
        headers = {"Registration-ID": registration.id, "Content-Type": "application/x-www-form-urlencoded"}
        families = itertools.cycle(protocols)

        def ask() -> Answer:
            family = next(families)
            answer = self._api.request(
                "POST", REGISTRATION_PATH, family=family, key=self._key, body=body, headers=headers
            )
            if answer.status != 401 or self._key is None:
                return answer
            self._key = None  # it has ended while we waited; the registration is known by its id
            return self._api.request("POST", REGISTRATION_PATH, family=family, body=body, headers=headers)

        return self._until_answered(ask, skip_missing=skip_missing)

    def _until_answered(self, ask: Callable[[], Answer], *, skip_missing: bool = False) -> Answer:
        """Ask until there is an answer below 500 to what was asked."""
        failures = 0
        while True:
            try:
                answer = ask()
            except ApiUnreachable as error:
                if skip_missing and error.step in ("name", "connect"):
                    raise _NoSuchProtocol(str(error)) from None
                if error.step == "tls":
                    raise SetupFailed(str(error)) from None
                failures += 1
                reason = str(error)
            else:
                self._report_clock(answer)
                if answer.status < 500 and answer.status != _TOO_SLOW:
                    return answer
                failures += 1
                reason = f"{self._api.url}: HTTP {answer.status}"
            self._progress.show(f"{reason}; trying again in {self._pace.retry:g} s ({failures})")
            time.sleep(self._pace.retry)

    def _judge(self, registration: Registration, answer: Answer) -> RegistrationAnswer | str:
        """Return the API key, or the state of a registration that has to wait."""
        if answer.content_type == "text/plain" or answer.status >= 400:
            if answer.status in _ABOUT_THE_REGISTRATION:
                end(self._directory)
            raise SetupFailed(f"the pool says: {without_secrets(answer.text) or f'HTTP {answer.status}'}")
        try:
            found = decode_registration(answer.body)
        except InvalidAnswer as error:
            raise SetupFailed(f"{self._api.url}: its answer is unusable: {error}") from None
        if found.status == "accepted" and found.key:
            return found.key
        if found.status in ("accepted", "completed"):
            return self._key_of(registration)
        return found

    def _key_of(self, registration: Registration) -> str:
        """Return the key of a registration that is over for the API: an earlier run may have stored it."""
        api = self._former.api
        end(self._directory)
        if api is not None and api.registration == registration.id:
            return api.key
        raise SetupFailed(
            "this registration is over, and its key was handed out already; run setup again for a new one"
        )

    # ---- the end ---------------------------------------------------------------------------------------------------

    def _store(self, registration: Registration, key: str) -> None:
        keep_out_of_logs(key)
        ca_file = None if self._api.ca_file is None else str(self._api.ca_file.absolute())
        api = Api(url=self._api.url, key=key, ca_file=ca_file, registration=registration.id)
        with writing_state(self._directory):
            self._directory.write_file(stored_with(self._directory.read_file(), api))

    def _finish(self, key: str) -> None:
        try:
            answer = self._api.request("GET", CONFIG_PATH, key=key)
            config = self._config(answer) if answer.status == 200 else None
        except (ApiUnreachable, SetupFailed):
            config = None  # the agent asks again
        for line in changes(self._former, self._known, config, new_key=key != self._key):
            self._say(line)
        self._say(next_step(self._directory))

    def _report_clock(self, answer: Answer) -> None:
        skew = answer.skew()
        if skew is None or abs(skew) < CLOCK_TOLERANCE or self._clock_reported:
            return
        self._clock_reported = True
        self._say(clock_line(skew))


class _NoSuchProtocol(Exception):
    """The API cannot be reached by this protocol."""


def stored_with(former: StateFile, api: Api) -> StateFile:
    """Return the state with a new key. What another API has told is forgotten: its broker must not get our token."""
    if former.api is not None and former.api.url != api.url:
        return StateFile(api=api, allow_private_targets=former.allow_private_targets)
    untagged: Fetched = msgspec.structs.replace(former.fetched, etag="", config="")
    return msgspec.structs.replace(former, api=api, fetched=untagged)


def next_step(directory: StateDirectory) -> str:
    """Return what the person should do next."""
    process = running_process(directory)
    if process is not None:
        which = f" (process {process})" if process else ""
        return f"the running agent{which} takes it up by itself; nothing is left to do"
    return f"start the agent, for example with: {for_environment(SYSTEM.install, directory.env)}"
