"""``python -m bench.faults.launch``: start one of our programs, with the handles that fault runs need.

    agent DIRECTORY                 the agent's daemon: journal, clock that can be set, points to die at
    worker DIRECTORY COMMAND ...    ``ntppool-monitor COMMAND ...``: tokens that live minutes, points to die at
    load KEY SPEC                   the load generator: its tokens follow the key in a file

The programs themselves have no such handles: this process wraps their functions.
"""

import functools
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from bench.faults import clock, journal
from bench.faults.points import set_traps

TAKEOVER_SPEED: Final = 20.0
"""A replaced agent waits minutes before it reconnects; in a fault run, the wait is shorter by this factor."""

TOKEN_LIFETIME: Final = timedelta(seconds=60)
"""For workers and load: tokens are renewed all the time."""

AGENT_TOKEN_LIFETIME: Final = timedelta(minutes=2)
"""For tokens that the API gives."""

CLOCK: Final = "clock"
JOURNAL: Final = "journal"


def main() -> int:
    """Become the program that the arguments name."""
    match sys.argv[1:]:
        case ["agent", directory]:
            return run_agent(Path(directory))
        case ["worker", directory, command, *rest]:
            return run_worker(Path(directory), [command, *rest])
        case ["load", key, spec]:
            return run_load(Path(key), spec)
    sys.stderr.write(f"{__doc__}\n")
    return 2


def run_agent(directory: Path) -> int:
    """Run the daemon with the settings in its environment, which ``ntppool-agent monitor`` would pass."""
    import agent.reconnect
    from agent.service import run
    from agent.settings import base_directory, for_daemon, load_settings

    waits = tuple(seconds / TAKEOVER_SPEED for seconds in agent.reconnect.TAKEOVER_WAITS)
    agent.reconnect.TAKEOVER_WAITS = waits  # type: ignore[misc,assignment]  # four of them, as there were
    # Traps wrap the functions themselves, the journal wraps both: it must be written first.
    set_traps("agent", directory)
    journal.keep(journal.Journal(directory / JOURNAL))
    clock.follow(clock.ClockOffset(directory / CLOCK))
    settings = load_settings(os.environ, {})
    return run(for_daemon(settings, base_directory(settings, os.environ)))


def run_worker(directory: Path, command: list[str]) -> int:
    """Run the operators' command line."""
    import auth.tokens
    from ops.__main__ import main as run

    # Before the programs are imported, which import this function.
    lifetime = AGENT_TOKEN_LIFETIME if command == ["api"] else TOKEN_LIFETIME
    auth.tokens.sign = _shorter(auth.tokens.sign, lifetime)
    set_traps(command[0], directory)
    return run(command)


def run_load(key_file: Path, spec: str) -> int:
    """Run the load generator, with tokens that follow a new key."""
    import auth.tokens
    from testbed.load.__main__ import main as run

    sign = _shorter(auth.tokens.sign, TOKEN_LIFETIME)

    def sign_with_current(key: Any, *arguments: Any, **named: Any) -> str:
        return sign(auth.tokens.load_key(key_file.read_text(encoding="utf-8")), *arguments, **named)

    auth.tokens.sign = sign_with_current
    sys.argv[1:] = [spec]
    return run()


def _shorter(sign: Callable[..., str], lifetime: timedelta) -> Callable[..., str]:
    return functools.partial(sign, lifetime=lifetime)


if __name__ == "__main__":
    sys.exit(main())
