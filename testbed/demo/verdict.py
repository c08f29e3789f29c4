"""The end of a demo in words, for people at a terminal: what went well, what did not, and who is handed out."""

import textwrap
from collections.abc import Iterator
from typing import Final

from testbed.demo.findings import HANDED_OUT_ABOVE
from testbed.demo.summary import ServerSummary, Summary

WIDE: Final = 80
"""Columns."""

_UNTIL_ALL_ARE_SCORED: Final = 15.0
"""Seconds from the start, on a machine with little else to do."""


def wrapped(text: str, first: str = "", later: str = "") -> str:
    """``text`` in lines of 80 columns, with what they begin with; paths and other long words stay whole."""
    return textwrap.fill(
        text, WIDE, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


def in_words(summary: Summary) -> str:
    """The whole verdict."""
    return "\n".join(_lines(summary)) + "\n"


def _lines(summary: Summary) -> Iterator[str]:
    if summary.good:
        yield wrapped(
            f"The demo went well: all {summary.committed} results are in the ledger, none of them twice, and scored."
        )
    else:
        yield "The demo did NOT go well:"
        yield from (wrapped(problem, "  - ", "    ") for problem in summary.problems)
        if summary.seconds < _UNTIL_ALL_ARE_SCORED and any(server.score is None for server in summary.servers):
            yield wrapped(f"It takes some {_UNTIL_ALL_ARE_SCORED:g} s until every server has a score; run it longer.")
    handed_out = sum(server.handed_out for server in summary.servers)
    yield ""
    yield wrapped(
        f"{handed_out} of {len(summary.servers)} servers are handed out to clients. "
        f"It takes a score above {HANDED_OUT_ABOVE:g}:"
    )
    yield from (_of_server(server) for server in summary.servers)


def _of_server(server: ServerSummary) -> str:
    score = "-" if server.score is None else f"{server.score:.1f}"
    ip = server.server.rpartition(":")[0]
    return f"  {ip:<15} {score:>6}  {'yes' if server.why_not is None else f'no: {server.why_not}'}"
