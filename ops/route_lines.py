"""Write routes for people, in lines that fit 80 columns, and in rows for other programs. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from ops.output import Cell
from schema.messages import Hop, HopAnswer, Trace

ROUTE_COLUMNS: Final = ("method", "hop", "address", "rtt", "note")

_METHODS: Final = {"udp": "UDP to port 123", "icmp": "ICMP echo", "tcp": "TCP to port 123"}
_SILENT: Final = "no answer"
_INDENT: Final = "    "


def route_lines(traces: Sequence[Trace]) -> list[str]:
    """Return each route under a line with its method and its end."""
    return [line for trace in traces for line in _lines(trace)]


def route_rows(traces: Sequence[Trace]) -> Iterator[tuple[Cell, ...]]:
    """Yield a row for each packet, with empty cells if it was not answered; the round-trip time is in seconds."""
    for trace in traces:
        for hop in trace.hops:
            for answer in hop.answers:
                yield trace.method, hop.ttl, *_cells(answer)


def _cells(answer: HopAnswer | None) -> tuple[Cell, ...]:
    if answer is None:
        return None, None, None
    return answer.ip, None if answer.rtt is None else f"{answer.rtt:.9g}", answer.note


def _lines(trace: Trace) -> list[str]:
    addresses = [answer.ip for hop in trace.hops for answer in hop.answers if answer is not None]
    width = max(map(len, (*addresses, _SILENT)))
    heading = f"  {_METHODS[trace.method]}: {_end(trace)}"
    return [heading, *(line for hop in trace.hops for line in _hop_lines(hop, width))]


def _end(trace: Trace) -> str:
    if trace.reached:
        words, about = f"reached at hop {len(trace.hops)}", []
    else:
        beyond = f" beyond hop {len(trace.hops)}" if trace.hops else ""
        words, about = f"no answer{beyond}", [f"{trace.tried} tried"]
    about += [trace.error] if trace.error else []
    return f"{words} ({'; '.join(about)})" if about else words


def _hop_lines(hop: Hop, width: int) -> list[str]:
    """Return a line for each address that answered, with the times of its answers and ``*`` for none."""
    by_address: dict[str, list[str]] = {}
    lost = 0
    for answer in hop.answers:
        if answer is None:
            lost += 1
        else:
            by_address.setdefault(answer.ip, []).append(_time(answer))
    first, *others = by_address.items() or [(_SILENT, [])]
    stars = ["*".rjust(9)] * lost if by_address else []
    lines = [_line(f"{hop.ttl:>2}", first[0], [*first[1], *stars], width)]
    return lines + [_line("  ", address, times, width) for address, times in others]


def _line(number: str, address: str, times: Sequence[str], width: int) -> str:
    return f"{_INDENT}{number}  {address:<{width}}  {'  '.join(times)}".rstrip()


def _time(answer: HopAnswer) -> str:
    time = "?" if answer.rtt is None else f"{answer.rtt * 1e3:.1f} ms"
    return time.rjust(9) + (f" {answer.note}" if answer.note else "")
