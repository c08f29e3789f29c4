"""Describe the end of a demo in words, for people at a terminal: success or problems, and which servers are handed
out."""

import textwrap
from collections.abc import Iterator
from typing import Final

from scorer.policy import HANDED_OUT_ABOVE
from testbed.demo.summary import ServerSummary, Summary

WIDE: Final = 80
"""Columns."""

_UNTIL_ALL_ARE_SCORED: Final = 15.0
"""Seconds from the start until all servers have a score, on an idle machine."""


def wrapped(text: str, first: str = "", later: str = "") -> str:
    """Wrap ``text`` at 80 columns, with prefixes; paths and other long words stay whole."""
    return textwrap.fill(
        text, WIDE, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


def in_words(summary: Summary) -> str:
    """Return the whole verdict."""
    return "\n".join(_lines(summary)) + "\n"


def _lines(summary: Summary) -> Iterator[str]:
    if summary.good:
        yield wrapped(
            f"The demo succeeded: all {summary.committed} results are in the ledger exactly once, and scored."
        )
    else:
        yield "The demo FAILED:"
        yield from (wrapped(problem, "  - ", "    ") for problem in summary.problems)
        if summary.seconds < _UNTIL_ALL_ARE_SCORED and any(server.score is None for server in summary.servers):
            yield wrapped(f"Every server has a score after about {_UNTIL_ALL_ARE_SCORED:g} s; run the demo longer.")
    handed_out = sum(server.handed_out for server in summary.servers)
    yield ""
    yield wrapped(
        f"{handed_out} of {len(summary.servers)} servers are handed out to clients. "
        f"The score must be above {HANDED_OUT_ABOVE:g}:"
    )
    yield from (_of_server(server) for server in summary.servers)


def _of_server(server: ServerSummary) -> str:
    score = "-" if server.score is None else f"{server.score:.1f}"
    ip = server.server.rpartition(":")[0]
    return f"  {ip:<15} {score:>6}  {'yes' if server.why_not is None else f'no: {server.why_not}'}"
