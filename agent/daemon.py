"""Run the daemon: ``python -m agent.daemon DESCRIPTOR``, started by ``ntppool-agent monitor``.

It replaces the command line's process, so that no module that only the command line needs stays in memory.
"""

import sys

from agent.lazy_imports import postpone


def main() -> None:
    """Read the settings from the given file descriptor, run, and exit."""
    postpone("urllib.request")
    # Imported after this call, since they import paho.
    from agent.daemon_settings import take_over
    from agent.service import run

    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("start this program with: ntppool-agent monitor")
    sys.exit(run(take_over(int(sys.argv[1]))))


if __name__ == "__main__":
    main()
