"""What the command line says, as lines of text for people. Pure."""

from collections.abc import Iterator
from datetime import datetime

from agent.clock_check import in_ms
from agent.sample import Sample, to_result
from agent.status_file import AgentReport
from agent.targets import Target
from schema.messages import ProtocolState, Result


def status_lines(report: AgentReport | None, process: int | None, certificate: str, now: datetime) -> Iterator[str]:
    """What the ``status`` command says; ``process`` is the running daemon's id, None when there is none."""
    if report is None:
        yield "this monitor has never run" if process is None else "started; nothing to say yet"
        return
    yield f"monitor      {report.name}"
    if process is None:
        yield f"daemon       not running; what follows is from {_ago(report.written, now)}"
    else:
        reported = f"version {report.status.version}, reported {_ago(report.written, now)}"
        yield f"daemon       running as process {process}, {reported}"
    because = f" ({report.disconnected_because})" if report.disconnected_because else ""
    yield f"broker       {report.broker}, {'connected' if report.connected else f'not connected{because}'}"
    for ipv, state in report.status.protocols.items():
        yield f"IP{ipv}         {_protocol(state)}"
    if not report.status.protocols:
        yield "protocols    none configured by the pool"
    spool = report.status.spool
    yield f"spool        {spool.batches} batches, {spool.bytes} bytes; {spool.dropped_results} results dropped, " + (
        f"{spool.set_aside} batches refused, {report.set_aside_torn} torn"
    )
    yield f"certificate  {certificate}"
    yield f"last results {'' if report.last_results else 'none'}".rstrip()
    for result in report.last_results:
        yield f"  {result.ts:%Y-%m-%d %H:%M:%S}  server {result.server_id} ({result.ip}): {result_words(result)}"


def check_line(target: Target, samples: list[Sample]) -> str:
    """What the ``check`` command says of one address."""
    result = to_result(0, target.ip, samples)
    return f"{target}: {result_words(result)}, {result.received} of {result.sent} samples answered"


def result_words(result: Result) -> str:
    """A result in one line."""
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
