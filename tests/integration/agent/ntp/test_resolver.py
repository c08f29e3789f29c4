"""Test name resolution in a separate process: it loads few modules, and a hanging lookup does not block the end."""

import subprocess
import sys

from testbed.paths import CHECKOUT

HANGING = """
import asyncio, threading
from agent.ntp.resolver import LookupFailed, Resolver

async def main():
    asked = asyncio.create_task(Resolver(lambda *_: threading.Event().wait()).addresses("time.example", "v4"))
    while threading.active_count() < 2:
        await asyncio.sleep(0.001)
    asked.cancel()

asyncio.run(main())
print("ended")
"""


def test_hanging_lookup_does_not_prevent_the_process_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], cwd=CHECKOUT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


LIGHT = """
import asyncio, sys
from agent.ntp.resolver import LookupFailed, Resolver

async def main():
    try:
        await Resolver().addresses("localhost", "v4")
    except LookupFailed:
        pass

asyncio.run(main())
assert "encodings.idna" not in sys.modules and "unicodedata" not in sys.modules
"""


def test_lookup_loads_no_tables_for_international_names() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
