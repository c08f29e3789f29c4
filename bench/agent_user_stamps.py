"""Run the daemon without the kernel's timestamps, for comparison.

It timestamps its packets itself, like a program that does not use the kernel's timestamps. Everything else is the same.
"""

import os
import sys

import agent.ntp.udp
from agent.daemon import main as run_daemon
from agent.daemon_settings import DaemonSettings, hand_over
from agent.ntp.kernel_stamps import KernelStamps
from bench.world import ENV


def _run(state_base: str) -> None:
    agent.ntp.udp.STAMPS = KernelStamps()  # type: ignore[attr-defined]  # the purpose of this program
    sys.argv[1:] = [str(hand_over(DaemonSettings(env=ENV, state_base=state_base)))]
    run_daemon()


if __name__ == "__main__":
    _run(os.environ["MONITOR_STATE_DIR"])
