"""Make processes kill themselves at a named point, on request.

A point is a function of the program, wrapped in a fault run's process only. A file with the point's name is the
request: the first process to reach the point removes the file and dies as if by SIGKILL, without executing any other
code.
"""

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from bench.faults.plan import POINTS

When = Literal["before", "after"]


def program_of(point: str) -> str:
    """Return the program that contains the point."""
    return point.partition(":")[0]


def order_file(directory: Path, point: str) -> Path:
    """Return the file that makes a process with this directory die at ``point``."""
    return directory / f"die-{POINTS.index(point)}"


def set_traps(program: str, directory: Path) -> None:
    """Make this process die at its program's points, on request in ``directory``."""
    traps = {point: _trap(order_file(directory, point)) for point in POINTS if program_of(point) == program}
    for point, trap in traps.items():
        owner, name, when = place(point)
        setattr(owner, name, _wrap(getattr(owner, name), trap, when))


def _trap(order: Path) -> Callable[[], None]:
    def trap() -> None:
        if order.exists():
            order.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)

    return trap


def _wrap(wrapped: Callable[..., Any], trap: Callable[[], None], when: When) -> Callable[..., Any]:
    @functools.wraps(wrapped)
    def inner(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            trap()
        result = wrapped(*arguments, **named)
        if when == "after":
            trap()
        return result

    return inner


def place(point: str) -> tuple[Any, str, When]:
    """Return the function whose beginning or end is the point: its owner, its name, and which of both."""
    # Imported here, since an agent's process must not import the workers' packages.
    match point:
        case "ingest: before the commit":
            import ingest.transaction

            return ingest.transaction, "_write", "after"
        case "ingest: after the commit, before the ack":
            import ingest.commit

            return ingest.commit.Committer, "_answer", "before"
        case "agent: after the ack, before the spool is trimmed":
            import agent.delivery.sender

            return agent.delivery.sender.Sender, "acknowledge", "before"
        case "agent: after the spool write, before the publish":
            import agent.delivery.spool

            return agent.delivery.spool.Spool, "store", "after"
        case "selector: before the commit":
            import selector.reviews

            return selector.reviews, "_review", "after"
        case "selector: after the commit, before publishing":
            import selector.publisher

            return selector.publisher.Publisher, "publish_pairs", "before"
        case "scorer: before the commit":
            import scorer.rounds

            return scorer.rounds, "write_scores", "after"
        case "api: after the certificate is stored, before the answer":
            import api.routes.certificate

            return api.routes.certificate, "issue_to_monitor", "after"
    raise ValueError(point)
