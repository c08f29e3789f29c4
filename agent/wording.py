"""Format the output of the command line as lines of text. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from agent.clock.verdict import in_ms
from agent.hints import command
from agent.inspection import Inspection
from agent.ntp.measurement import Sample, to_result
from agent.ntp.targets import Target
from agent.renewal_file import Outcome
from agent.state import StateDirectory
from agent.status_file import AgentReport
from agent.system import SYSTEM, for_environment
from schema.messages import ProtocolState, Result
from schema.names import Environment


def status_lines(found: Inspection, now: datetime) -> Iterator[str]:
    """Yield the output of the ``status`` command."""
    if found.closed_by is None and not found.set_up:
        yield f"monitor      not set up for {found.env}: run {_command(found, 'setup')} as root"
    yield f"state        {found.path}"
    if found.closed_by is not None:
        yield f"closed       only {found.closed_by} may read it: use sudo"
        return
    yield from (f"trouble      {trouble}" for trouble in found.troubles)
    if found.report is None:
        yield from _without_report(found, now)
        return
    yield from _report_lines(found, found.report, now)


def _without_report(found: Inspection, now: datetime) -> Iterator[str]:
    if found.process is not None:
        yield "daemon       started; no report yet"
    elif found.set_up:
        yield f"monitor      {found.name or _unnamed(found)}"
        if found.settings_differ is not None:
            yield f"settings     {found.settings_differ}"
        yield from _api_lines(found, now)
        yield f"daemon       has never run here: {_start(found.env)}"
    else:
        if found.others:
            yield f"hint         set up here: {', '.join(found.others)}; use --env {found.others[0]}"
        else:
            yield "hint         other directory: --state-dir or MONITOR_STATE_DIR; other environment: --env"


def _report_lines(found: Inspection, report: AgentReport, now: datetime) -> Iterator[str]:
    if report.waiting_for is None:
        yield f"monitor      {report.name}"
    elif found.set_up:
        yield f"monitor      {found.name or _unnamed(found)}"
    ago = _ago(report.written, now)
    runs = found.process is not None
    if not runs:
        yield f"daemon       not running; the report below is from {ago}. {_restart(found, now)}"
    elif found.stale(now):
        yield f"daemon       process {found.process or 'unknown'} last reported {ago}: it hangs, or cannot"
        yield "             write here (disk full, failing or read-only; directory removed)"
    else:
        yield f"daemon       running as process {found.process}, version {report.status.version}, reported {ago}"
    yield from _settings_lines(found, report)
    yield from _api_lines(found, now)
    if report.waiting_for is not None:
        if runs:
            yield f"waiting      not probing: {report.waiting_for}{_asks_again(found)}"
        return
    yield from (f"trouble      {trouble}" for trouble in report.troubles)
    because = f" ({report.disconnected_because})" if report.disconnected_because else ""
    then = "" if runs else f" (as of {report.written:%H:%M:%S} UTC)"
    yield f"broker       {report.broker}, {'connected' if report.connected else f'not connected{because}'}{then}"
    for ipv, state in report.status.protocols.items():
        yield f"IP{ipv}         {_protocol(state)}{then}"
    if not report.status.protocols:
        yield "protocols    none configured by the pool"
    spool = report.status.spool
    yield f"spool        {spool.batches} batches, {spool.bytes} bytes; {spool.dropped_results} results dropped, " + (
        f"{spool.set_aside} batches refused, {report.set_aside_torn} torn"
    )
    if report.probes_unsent or report.results_unproven:
        unproven = f"{report.results_unproven} results of silent servers discarded while no server answered"
        yield f"network      {report.probes_unsent} probes could not be sent; {unproven}"
    if "token" in found.missing:
        yield f"token        {_fetched(found, 'token')}"
    elif found.token is not None:
        yield f"token        {found.token}"
    lost = [name for name in found.missing if name != "token"]
    yield f"certificate  {_fetched(found, ' and '.join(lost)) if lost else found.certificate}"
    yield f"last results {'' if report.last_results else 'none'}".rstrip()
    for result in report.last_results:
        yield f"  {result.ts:%Y-%m-%d %H:%M:%S}  server {result.server_id} ({result.ip}): {result_words(result)}"


def _unnamed(found: Inspection) -> str:
    if found.api is not None:
        return "not named by the API yet"
    return "unknown"


def _api_lines(found: Inspection, now: datetime) -> Iterator[str]:
    if found.api is None:
        return
    last = found.renewal
    if last is None:
        yield f"api          {found.api}, not asked yet"
    else:
        yield f"api          {found.api}, asked {_ago(last.at, now)}{_outcome(found, last, now)}"
        if last.clock:
            yield f"clock        {last.clock}"
        if last.address:
            yield f"address      {last.address}"
    if found.registered:
        yield f"registered   {'; '.join(found.registered)}"


def _settings_lines(found: Inspection, report: AgentReport) -> Iterator[str]:
    if found.settings_differ is not None:
        yield f"settings     {found.settings_differ}"
    if report.settings_file is None or found.process is None:
        return
    if found.settings_changed:
        restart = f"it applies after: {for_environment(SYSTEM.restart, found.env)}"
        yield f"settings     {report.settings_file} has changed since the agent has read it at its start; {restart}"
    elif found.settings_differ is None:
        yield f"settings     as in {report.settings_file} and the environment when the agent was started"


def _outcome(found: Inspection, last: Outcome, now: datetime) -> str:
    """Say how the API was asked last; what the daemon waits for is said in its own line."""
    report = None if found.process is None else found.report
    waiting_for = None if report is None else report.waiting_for
    if last.text and waiting_for is not None and waiting_for.startswith(last.text):
        return ""
    if last.kind == "unreachable" and report is not None and waiting_for is None:
        if found.ends is None or found.ends <= now:
            return f": {last.text}; the agent asks again within 15 min, and keeps its results until it can log in"
        return f": {last.text}; the agent works on with what it has, and asks again within 15 min"
    if not last.text and found.missing:
        return ""
    return f": {last.text or 'all is well'}"


_AGAIN: Final = {"waiting": "a minute", "refused": "10 min", "unreachable": "15 min", "failed": "15 min"}


def _asks_again(found: Inspection) -> str:
    """Say when a daemon that waits asks the API again, if it has one."""
    last = found.renewal
    return "" if last is None or last.kind not in _AGAIN else f"; asks the API again within {_AGAIN[last.kind]}"


def _fetched(found: Inspection, names: str) -> str:
    if found.process is None:
        return f"{names} missing; the agent fetches it when it runs"
    return f"{names} missing; the agent fetches it from the API"


def _restart(found: Inspection, now: datetime) -> str:
    """Say how the daemon gets started again."""
    if found.report is not None and now - found.report.written < timedelta(seconds=60):
        return f"If it was not stopped, {SYSTEM.supervisor} starts it again within seconds; else {_start(found.env)}"
    return _start(found.env).capitalize()


def _command(found: Inspection, words: str) -> str:
    return command(StateDirectory(Path(found.path).parent, found.env), words)


def _start(env: Environment) -> str:
    return f"start it, for example with: {for_environment(SYSTEM.start, env)}"


def check_line(target: Target, samples: Sequence[Sample]) -> str:
    """Format the ``check`` command's line for one address."""
    result = to_result(0, target.ip, samples)
    return f"{target}: {result_words(result)}, {result.received} of {result.sent} samples answered"


def result_words(result: Result) -> str:
    """Describe a result in one line."""
    if result.no_response:
        return result.error or "no response"
    words = [] if result.error is None else [f"error {result.error}"]
    words.append("no offset" if result.offset is None else f"offset {in_ms(result.offset)}")
    if result.rtt is not None:
        words.append(f"rtt {result.rtt * 1000:.3f} ms")
    words.append(f"stratum {result.stratum}, leap {result.leap}, reference {result.reference_id}")
    if result.root_delay is not None and result.root_dispersion is not None:
        # Root distance: half the delay to the primary clock, and its dispersion (RFC 5905, section 11.2).
        distance = (result.root_delay + (result.rtt or 0.0)) / 2 + result.root_dispersion
        words.append(f"root distance {distance * 1000:.3f} ms")
    return ", ".join(words)


def _protocol(state: ProtocolState) -> str:
    doing = "probing" if state.probing else f"not probing: {state.why_not}"
    return f"{state.status}, {doing}; {state.assignments} servers assigned"


def _ago(then: datetime, now: datetime) -> str:
    seconds = max(0, round((now - then).total_seconds()))
    if seconds < 120:
        return f"{seconds} s ago"
    return f"{seconds // 60} min ago" if seconds < 7200 else f"{seconds // 3600} h ago"
