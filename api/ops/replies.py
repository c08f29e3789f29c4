"""Judge what an agent answers, before anybody sees it. Pure.

An agent may belong to anybody, so its answer may be wrong, forged or endless. Text of agents is cut here; whoever shows
it must escape it.
"""

import re
from ipaddress import ip_address
from typing import Final

import msgspec

from schema.messages import AdHocAnswer, Result, Trace, Undecodable, decode

MAX_ANSWER: Final = 8 * 1024
"""Bytes of an answer with a result, which has less than one."""

MAX_ROUTE: Final = 32 * 1024
"""Bytes of an answer with a route, which has less than 25 thousand: three methods, 30 hops, two or three answers."""

MAX_METRICS: Final = 128 * 1024
"""Bytes of an answer with metrics, which has less than ten thousand."""

_LONGEST: Final = 200
"""Characters of an agent's words that are kept."""

_FARTHEST: Final = 60.0
"""Seconds; no agent waits so long for a reply."""

_FARTHEST_OFFSET: Final = 2.0**32
"""Seconds: NTP's clocks cannot differ by more within an era (RFC 5905, section 6)."""

_LABEL: Final = r'[a-z_][a-z0-9_]*="[ !#-\[\]-~]*"'
_VALUE: Final = r"[+-]?(?:[0-9.]{1,30}(?:e[+-]?[0-9]{1,3})?|inf|nan)"
_SAMPLE: Final = re.compile(
    rf"ntppool_agent_[a-z0-9_]+(?:\{{{_LABEL}(?:,{_LABEL})*\}})? {_VALUE}", re.ASCII | re.IGNORECASE
)
_COMMENT: Final = re.compile(r"# (?:TYPE ntppool_agent_[a-z0-9_]+ (?:counter|gauge)|HELP ntppool_agent_[ -~]+)")
"""The agent's own metrics in Prometheus' text format, version 0.0.4, and nothing else: no metric that another program's
could be taken for, no time, no line that a reader could take for two."""


class BadAnswer(ValueError):
    """The agent's answer cannot be used; the message says why, to follow the agent's name."""


def result_of(payload: bytes, answer_id: str, ip: str) -> Result:
    """Return the measurement of ``ip`` in an agent's answer.

    Raises:
        BadAnswer: it is invalid, or the agent did not measure.
    """
    answer = _decode(payload, answer_id, MAX_ANSWER)
    if answer.error is not None:
        raise BadAnswer(f"did not measure: {cut(answer.error)}")
    return _result(answer, ip)


def route_of(payload: bytes, answer_id: str, ip: str) -> tuple[Result, list[Trace]]:
    """Return the measurement of ``ip``, and the route to it by each method, in an agent's answer.

    Raises:
        BadAnswer: it is invalid, or the agent did not trace the route.
    """
    answer = _decode(payload, answer_id, MAX_ROUTE)
    if answer.error is not None:
        raise BadAnswer(f"did not trace the route: {cut(answer.error)}")
    if not answer.traces:
        raise BadAnswer("answered without a route")
    if len({trace.method for trace in answer.traces}) < len(answer.traces):
        raise BadAnswer("answered with two routes by one method")
    if not all(map(_is_possible_route, answer.traces)):
        raise BadAnswer("answered with an impossible route")
    return _result(answer, ip), [_checked(trace, ip) for trace in answer.traces]


def _result(answer: AdHocAnswer, ip: str) -> Result:
    if answer.result is None:
        raise BadAnswer("answered without a result")
    if (wrong := _impossible(answer.result, ip)) is not None:
        raise BadAnswer(f"answered with an impossible {wrong}")
    return answer.result


def _is_possible_route(trace: Trace) -> bool:
    ttls = [hop.ttl for hop in trace.hops]
    answers = [answer for hop in trace.hops for answer in hop.answers if answer is not None]
    return (
        ttls == list(range(1, len(ttls) + 1))
        and len(ttls) <= trace.tried
        and all(_is_address(answer.ip) and (answer.rtt or 0) <= _FARTHEST for answer in answers)
    )


def _checked(trace: Trace, ip: str) -> Trace:
    """Return a route with a bounded text, and our own judgement whether it ends at the address."""
    answers = (answer for hop in trace.hops for answer in hop.answers if answer is not None)
    reached = any(_is_same(answer.ip, ip) for answer in answers)
    return msgspec.structs.replace(trace, reached=reached, error=None if trace.error is None else cut(trace.error))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def metrics_of(payload: bytes, answer_id: str) -> str:
    """Return the metrics in an agent's answer, in Prometheus' text format.

    Raises:
        BadAnswer: it is invalid, or has other metrics than an agent's.
    """
    answer = _decode(payload, answer_id, MAX_METRICS)
    if answer.error is not None:
        raise BadAnswer(f"refused: {cut(answer.error)}")
    if answer.metrics is None:
        raise BadAnswer("answered without metrics")
    lines = answer.metrics.removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not (_SAMPLE.fullmatch(line) or _COMMENT.fullmatch(line)):
            raise BadAnswer(f"answered with metrics that are not an agent's (line {number})")
    return "\n".join(lines) + "\n"


def cut(text: str) -> str:
    """Return the beginning of an agent's words."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _decode(payload: bytes, answer_id: str, most: int) -> AdHocAnswer:
    if len(payload) > most:
        raise BadAnswer(f"answered with {len(payload)} bytes, more than {most}")
    try:
        answer = decode(payload, AdHocAnswer)
    except Undecodable as error:
        raise BadAnswer(f"gave an invalid answer: {cut(str(error))}") from None
    if answer.id != answer_id:
        raise BadAnswer("answered another request")
    return answer


def _impossible(result: Result, ip: str) -> str | None:
    """Return which part of a result cannot be; ``None`` if all can."""
    possible = {
        "address": _is_same(result.ip, ip),
        "offset": result.offset is None or abs(result.offset) <= _FARTHEST_OFFSET,
        "round-trip time": result.rtt is None or 0 <= result.rtt <= _FARTHEST,
        "stratum": result.stratum is None or 0 <= result.stratum <= 255,
        "leap": result.leap is None or 0 <= result.leap <= 3,
        "number of samples": 0 <= result.received <= result.sent <= 10,
    }
    return next((part for part, good in possible.items() if not good), None)


def _is_same(text: str, ip: str) -> bool:
    try:
        return ip_address(text) == ip_address(ip)
    except ValueError:
        return False
