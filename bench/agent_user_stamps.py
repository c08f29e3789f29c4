"""The daemon without the kernel's time stamps, to compare with.

It takes the time of its packets itself, as a program that does not ask the kernel has to. All else is the same.
"""

import os
import socket
import sys

import agent.ntp.udp
from agent.daemon import main as run_daemon
from agent.daemon_settings import DaemonSettings, hand_over
from bench.world import ENV


def _ask_for_none(sock: socket.socket) -> None:
    """In the place of what asks the kernel: every packet then says that it was not stamped."""


def _run(state_base: str) -> None:
    agent.ntp.udp._ask_for_stamps = _ask_for_none  # the point of this program
    sys.argv[1:] = [str(hand_over(DaemonSettings(env=ENV, state_base=state_base)))]
    run_daemon()


if __name__ == "__main__":
    _run(os.environ["MONITOR_STATE_DIR"])
