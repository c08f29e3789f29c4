"""Judge each step of the way to the pool, for ``api ok``: what was found, and what would help. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from agent.api_client import Answer, ApiUnreachable
from agent.api_messages import ConfigAnswer, InvalidAnswer, decode_config
from agent.setup_words import CLOCK_TOLERANCE, clock_line
from runtime.mqtt.token_life import life_of
from schema.messages import LIVE
from schema.names import Environment, IpVersion

Verdict = Literal["ok", "note", "failed", "skipped"]
Tried = Mapping[IpVersion, Answer | ApiUnreachable]
"""The outcome of a request by each protocol that has an address."""

SETUP: Final = "run 'ntppool-agent setup'"


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``note``: worth knowing, but not a failure."""

    name: str
    verdict: Verdict
    detail: str
    help: str = ""
    """What would help, if something is wrong."""

    def line(self) -> str:
        """Return the step on one line."""
        return f"{self.verdict:<8}{self.name:<14}{self.detail}{f'. {_capital(self.help)}' if self.help else ''}"

    def as_dict(self) -> dict[str, Any]:
        """Return the step as JSON-compatible data."""
        return asdict(self)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def name_step(host: str, addresses: Mapping[IpVersion, Sequence[str]], problems: Mapping[IpVersion, str]) -> Step:
    """Judge the look-up of the API's name.

    Args:
        addresses: by protocol that has any.
        problems: why the others have none.
    """
    found = [f"IP{ipv} {' '.join(ips)}" for ipv, ips in addresses.items()]
    missing = [f"no IP{ipv} ({why})" for ipv, why in problems.items()]
    detail = f"{host}: {'; '.join([*found, *missing])}"
    if not addresses:
        return Step("name", "failed", detail, "check /etc/resolv.conf, and that the name is right (MONITOR_API)")
    return Step("name", "ok", detail)


def connection_step(tried: Tried, registered: Collection[IpVersion]) -> Step:
    """Judge the connections. A registered protocol that does not reach the API is worth a note."""
    reached = [ipv for ipv, outcome in tried.items() if _beyond(outcome, "connect")]
    failed = {ipv: str(outcome) for ipv, outcome in tried.items() if ipv not in reached}
    detail = " and ".join(f"IP{ipv}" for ipv in reached)
    if not reached:
        why = "; ".join(f"IP{ipv}: {text}" for ipv, text in failed.items())
        return Step("connection", "failed", why, "check the network, the firewall and MONITOR_API_BIND")
    if failed:
        why = "; ".join(f"not by IP{ipv}: {text}" for ipv, text in failed.items())
        if any(ipv in registered for ipv in failed):
            return Step("connection", "note", f"{detail}; {why}", "the pool has registered that protocol for this host")
        return Step("connection", "ok", f"{detail}; {why}")
    return Step("connection", "ok", detail)


def tls_step(tried: Tried, *, encrypted: bool) -> Step:
    """Judge the API's certificate, by the protocols that have reached it."""
    if not encrypted:
        return Step("TLS", "ok", "not used, since the API is on this host")
    failed = [outcome for outcome in tried.values() if isinstance(outcome, ApiUnreachable) and outcome.step == "tls"]
    if failed:
        text, advice = str(failed[0]), "set this host's clock, or install ca-certificates"
        if "MONITOR_API_CA_FILE" not in text:
            advice += "; or name the API's CA in MONITOR_API_CA_FILE"
        return Step("TLS", "failed", text, advice)
    return Step("TLS", "ok", "the API's certificate is trusted")


def answer_step(tried: Tried) -> tuple[Step, Answer | None]:
    """Judge whether the API answers; return its answer, if it is below HTTP 500."""
    answers = [outcome for outcome in tried.values() if isinstance(outcome, Answer)]
    for answer in answers:
        if answer.status < 500:
            return Step("answer", "ok", f"HTTP {answer.status} from {answer.peer}"), answer
    reasons = [*(f"HTTP {answer.status}" for answer in answers), *map(str, _unreachable(tried))]
    advice = "the API is away; the agent works with what it has, and so nothing is lost: try again later"
    return Step("answer", "failed", reasons[0] if reasons else "none", advice), None


def clock_step(answer: Answer) -> Step:
    """Judge this host's clock by the API's."""
    skew = answer.skew()
    if skew is None:
        return Step("clock", "note", "cannot be judged: the API does not tell its time")
    if abs(skew) >= CLOCK_TOLERANCE:
        return Step("clock", "failed", clock_line(skew))
    return Step("clock", "ok", f"within {CLOCK_TOLERANCE:g} s of the API's")


def key_step(answer: Answer) -> Step:
    """Judge the API key."""
    if answer.status == 401:
        return Step("key", "failed", f"the API refuses the key: {answer.text}", f"{SETUP} for a new one")
    return Step("key", "ok", "the API accepts the key")


def configuration_step(answer: Answer, env: Environment, name: str | None) -> Step:
    """Judge the configuration.

    Args:
        name: this monitor's name in ``state.json``, if there is one.
    """
    if answer.status != 200:
        return Step("configuration", "failed", f"HTTP {answer.status} {answer.text}", "tell the pool's operators")
    try:
        config = decode_config(answer.body, env)
    except InvalidAnswer as error:
        return Step(
            "configuration", "failed", f"is unusable: {error}", "tell the pool's operators; or update the agent"
        )
    detail = "; ".join([config.tls_name, *(f"IP{ipv} {p.ip} {p.status}" for ipv, p in config.protocols.items())])
    statuses = {protocol.status for protocol in config.protocols.values()}
    if statuses == {"deleted"}:
        return Step(
            "configuration", "failed", f"{detail}: the pool has deleted this monitor", f"{SETUP} to register again"
        )
    if config.broker is None:
        return Step("configuration", "note", f"{detail}; the pool has named no broker yet")
    if name not in (None, config.tls_name):
        return Step("configuration", "note", f"{detail}; the agent still has the name {name} and changes it soon")
    return _by_status(config, detail, statuses)


def _by_status(config: ConfigAnswer, detail: str, statuses: set[str]) -> Step:
    if not config.protocols:
        return Step("configuration", "note", f"{detail}; no protocol is registered", SETUP)
    if not statuses.isdisjoint(LIVE):
        return Step("configuration", "ok", detail)
    if "pending" in statuses:
        return Step("configuration", "note", f"{detail}: the pool has yet to approve this monitor")
    return Step("configuration", "note", f"{detail}: the pool does not let this monitor measure now")


def token_problem(token: str, name: str | None, now: float) -> str:
    """Return why a token is of no use at ``now`` (Unix time), without quoting it; empty if it is good.

    Args:
        name: the monitor's; ``None`` if it is not known.
    """
    life = life_of(token)
    if life is None:
        return "the token is not one of this pool"
    if name is not None and life.subject != name:
        return f"the token is for {life.subject}"
    if life.expires <= now:
        return f"the token ended on {_day(life.expires)}"
    return ""


def token_step(
    token: str | None, problem: str, asked: Answer | ApiUnreachable | None, *, running: bool, missing: bool = False
) -> Step:
    """Judge the token.

    Args:
        token: the stored one, if it is good.
        problem: why it is not.
        asked: the API's answer to the request for another one, if it was asked.
        running: whether the agent runs.
        missing: there is no stored one.
    """
    if token is not None:
        life = life_of(token)
        return Step("token", "ok", "valid" if life is None else f"valid until {_day(life.expires)}")
    if isinstance(asked, Answer) and asked.status != 200:
        text = asked.text or f"HTTP {asked.status}"
        return Step("token", "failed", f"{problem}; the pool gives none: {text}")
    given = isinstance(asked, Answer)
    detail = f"{problem}; the pool gives another one" if given else f"{problem}; {asked or 'the API was not asked'}"
    if running and given and missing:
        return Step("token", "note", detail, "the running agent fetches it now")
    if running:
        return Step("token", "failed", detail, "see 'ntppool-agent status' for why the agent has not fetched it")
    return Step("token", "note" if given else "failed", detail, "start the agent, which fetches it")


def certificate_step(
    validity: tuple[datetime, datetime] | None, problem: str, now: float, *, lost: bool = False
) -> Step:
    """Judge our certificate.

    Args:
        validity: its times; ``None`` if there is no certificate.
        problem: why it is of no use; empty if it is good.
        lost: there has been one.
    """
    advice = "the agent renews it by itself: see 'ntppool-agent status' for why it has not"
    if problem:
        return Step("certificate", "failed", problem, advice)
    if validity is None and lost:
        return Step("certificate", "note", "there is none any more", "the agent fetches another one when it runs")
    if validity is None:
        return Step("certificate", "note", "there is none, which only a pool without certificates accepts")
    begins, ends = (moment.timestamp() for moment in validity)
    if not begins <= now < ends:
        when = f"valid from {_day(begins)} until {_day(ends)} only"
        return Step("certificate", "failed", when, advice)
    return Step("certificate", "ok", f"valid until {_day(ends)}")


def broker_step(address: str, problem: str | None) -> Step:
    """Judge the connection to the broker; ``problem`` is ``None`` if it works."""
    if problem is None:
        return Step("broker", "ok", f"{address} answers")
    port = address.rpartition(":")[2]
    if "CERTIFICATE_VERIFY_FAILED" in problem:
        advice = "set this host's clock; the pool's CA comes with the configuration within five minutes"
    else:
        advice = f"check the network, and that the firewall lets TCP to port {port} out"
    return Step("broker", "failed", f"{address}: {problem}", advice)


def login_step(problem: str | None, *, refused: bool, used: str = "token and certificate") -> Step:
    """Judge the login.

    Args:
        problem: ``None`` if it works.
        refused: the broker does not accept token or certificate.
        used: what was shown to the broker.
    """
    if problem is None:
        return Step("login", "ok", f"the broker accepts {used}")
    advice = "the running agent asks the pool for new ones by itself" if refused else "try again later"
    return Step("login", "failed", problem, f"{advice}; if it stays so, {SETUP}" if refused else advice)


def publish_step(topic: str, problem: str | None) -> Step:
    """Judge the message."""
    if problem is None:
        return Step("publish", "ok", f"the broker has acknowledged a message on {topic}")
    return Step("publish", "failed", problem, "tell the pool's operators")


def _beyond(outcome: Answer | ApiUnreachable, step: Literal["connect"]) -> bool:
    return isinstance(outcome, Answer) or outcome.step not in ("name", step)


def _unreachable(tried: Tried) -> list[ApiUnreachable]:
    return [outcome for outcome in tried.values() if isinstance(outcome, ApiUnreachable)]


def _day(unix: float) -> str:
    try:
        return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return "an impossible date"
