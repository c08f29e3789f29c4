"""``python -m testbed.load SPEC``: run the load generator. Exit code 1 if some batches were not acknowledged."""

import asyncio
import gc
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from auth.tokens import InvalidKey, load_key
from runtime.log import set_up_logging
from testbed.load.generator import Generator, NotReady
from testbed.load.record import Record
from testbed.load.spec import LoadSpec, SpecError, read_spec

log = logging.getLogger("testbed.load")

_COLLECT_EVERY: Final = 0.1
_NICE: Final = 10


def main() -> int:
    """Run the specification in the file that is the only argument."""
    set_up_logging("info")
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m testbed.load SPEC\n")
        return 2
    try:
        return asyncio.run(_run(read_spec(Path(sys.argv[1]))))
    except (SpecError, InvalidKey, OSError) as error:
        sys.stderr.write(f"testbed.load: {error}\n")
        return 2
    except NotReady as error:
        sys.stderr.write(f"testbed.load: {error}\n")
        return 1


async def _run(spec: LoadSpec) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if spec.outstanding:
        _step_back()
    key = load_key(spec.key_file.read_text(encoding="utf-8"))
    with Record(spec.record) as record:
        generator = Generator(spec, key, record)
        # A full garbage collection, or one of all objects of some seconds, would pause the monitors for a tenth of a
        # second, and the pause would be measured.
        gc.freeze()
        gc.disable()
        collecting = asyncio.create_task(_collect_young())
        try:
            complete = await generator.run(stop)
        finally:
            collecting.cancel()
        log.info("%d batches were not acknowledged; the latest was sent %.3f s late", generator.left, generator.late)
    return 0 if complete else 1


def _step_back() -> None:
    """Give the measured processes priority: a sender without a rate limit would take as much of the machine as it
    gets."""
    os.nice(_NICE)
    # Where the kernel schedules by session (autogroup), a process's nice value counts within its session only.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICE))


async def _collect_young() -> None:
    """Collect young objects often and briefly; few objects grow old, and they stay."""
    while True:
        await asyncio.sleep(_COLLECT_EVERY)
        gc.collect(0)


if __name__ == "__main__":
    sys.exit(main())
